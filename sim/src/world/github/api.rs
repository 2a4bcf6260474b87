//! What the REST API does, without HTTP.

use engine::ids::{Span, Time};

use super::{Account, AccountKind, Delivery, GitHub, Job, LAG, Repo, Runner, Scope};

/// Installation tokens live for an hour.
const TOKEN_LIFE: Span = Span::hours(1);
/// The id of every organisation's default runner group.
pub const DEFAULT_GROUP: i64 = 1;
/// GitHub's limit for a runner's name.
const NAME_LIMIT: usize = 64;

/// An installation's hourly limit.
#[derive(Debug, Clone, Copy)]
pub struct Quota {
    /// Calls an hour.
    pub limit: u32,
    /// Calls in this hour.
    pub used: u32,
    /// When the next hour begins.
    pub reset_at: Time,
}

impl Default for Quota {
    fn default() -> Self {
        Self { limit: 5_000, used: 0, reset_at: Time::ZERO }
    }
}

/// Why the API says no.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ApiError {
    /// 401.
    BadCredentials,
    /// 404.
    NotFound,
    /// 403: the installation is suspended.
    Suspended,
    /// 403: runner groups need a paid plan.
    NoGroups,
    /// 403: out of calls, until then.
    RateLimited(Time),
    /// 409: a runner of that name exists.
    NameTaken,
    /// 422.
    Invalid(&'static str),
    /// 422: it executes a job.
    RunnerBusy,
}

/// A runner as listings show it.
#[derive(Debug, Clone)]
pub struct ListedRunner {
    /// Its id.
    pub id: i64,
    /// The rest.
    pub runner: Runner,
    /// As GitHub shows it: this may lag.
    pub busy: bool,
}

impl GitHub {
    /// POST /app/installations/{id}/access_tokens.
    pub fn create_token(
        &mut self,
        kind: AccountKind,
        installation: i64,
        now: Time,
    ) -> Result<(String, Time), ApiError> {
        let account =
            self.accounts.values().find(|account| account.installation == installation && account.kind == kind);
        let account = account.filter(|account| !account.removed).ok_or(ApiError::NotFound)?;
        if account.suspended {
            return Err(ApiError::Suspended);
        }
        let (id, expires) = (account.id, now + TOKEN_LIFE);
        let token = self.secret("ghs_");
        self.tokens.insert(token.clone(), (id, expires));
        Ok((token, expires))
    }

    /// GET /app/installations/{id}.
    pub fn installation(&self, kind: AccountKind, id: i64) -> Result<&Account, ApiError> {
        let is_it = |account: &&Account| account.installation == id && account.kind == kind && !account.removed;
        self.accounts.values().find(is_it).ok_or(ApiError::NotFound)
    }

    /// Every token given out so far is worth nothing any more.
    pub fn revoke_tokens(&mut self) {
        self.tokens.clear();
    }

    /// Removes every runner group but the default ones.
    pub fn remove_groups(&mut self) {
        let all: Vec<i64> = self.groups.keys().copied().collect();
        all.into_iter().for_each(|id| self.remove_group(id));
    }

    /// Removes a runner group; its runners go to the default group.
    pub fn remove_group(&mut self, id: i64) {
        self.groups.remove(&id);
        for runner in self.runners.values_mut().filter(|runner| runner.group == id) {
            runner.group = DEFAULT_GROUP;
        }
    }

    /// Whose token this is, while it lasts. Counts the call against the hour.
    pub fn authorize(&mut self, token: &str, now: Time) -> Result<(i64, Quota), ApiError> {
        let &(id, expires) = self.tokens.get(token).ok_or(ApiError::BadCredentials)?;
        let limits = self.limits;
        let account = self.accounts.get_mut(&id).ok_or(ApiError::BadCredentials)?;
        if now >= expires || account.removed {
            return Err(ApiError::BadCredentials);
        }
        if account.suspended {
            return Err(ApiError::Suspended);
        }
        let quota = &mut account.quota;
        if now >= quota.reset_at {
            quota.used = 0;
            quota.reset_at = now + Span::hours(1);
        }
        if limits && quota.used >= quota.limit {
            return Err(ApiError::RateLimited(quota.reset_at));
        }
        quota.used += 1;
        Ok((id, *quota))
    }

    /// The repository `owner/name`, when this account owns it. GitHub sends calls by a former name on to where it is now;
    /// here they are answered at once.
    pub fn repo(&self, account: i64, full_name: &str) -> Result<&Repo, ApiError> {
        let owned = |repo: &&Repo| {
            let mut names = std::iter::once(&repo.full_name).chain(&repo.former_names);
            repo.account == account && names.any(|name| name.eq_ignore_ascii_case(full_name))
        };
        self.repos.values().find(owned).ok_or(ApiError::NotFound)
    }

    /// The organisation of this login, when it is this account.
    pub fn org(&self, account: i64, login: &str) -> Result<&Account, ApiError> {
        let account = self.accounts.get(&account).ok_or(ApiError::NotFound)?;
        let fits = account.kind == AccountKind::Organization && account.login.eq_ignore_ascii_case(login);
        if fits { Ok(account) } else { Err(ApiError::NotFound) }
    }

    /// An organisation's runner groups: (id, name). The default group is 1.
    pub fn list_groups(&self, account: i64) -> Vec<(i64, String)> {
        let own = self.groups.iter().filter(|(_, (owner, _))| *owner == account);
        let own = own.map(|(id, (_, name))| (*id, name.clone()));
        std::iter::once((DEFAULT_GROUP, "Default".to_owned())).chain(own).collect()
    }

    /// Creates a runner group.
    pub fn create_group(&mut self, account: i64, name: &str) -> Result<i64, ApiError> {
        let entry = self.accounts.get(&account).ok_or(ApiError::NotFound)?;
        if !entry.groups {
            return Err(ApiError::NoGroups);
        }
        if self.list_groups(account).iter().any(|(_, known)| known == name) {
            return Err(ApiError::NameTaken);
        }
        let id = self.next_id();
        self.groups.insert(id, (account, name.to_owned()));
        if let Some(account) = self.accounts.get_mut(&account) {
            account.group = Some(id);
        }
        Ok(id)
    }

    /// Makes a JIT configuration and its offline runner entry, in the default group.
    pub fn generate_jit(
        &mut self,
        scope: Scope,
        name: &str,
        labels: &[String],
        now: Time,
    ) -> Result<(i64, String), ApiError> {
        self.generate_jit_in(scope, DEFAULT_GROUP, name, labels, now)
    }

    /// The same in a runner group.
    pub fn generate_jit_in(
        &mut self,
        scope: Scope,
        group: i64,
        name: &str,
        labels: &[String],
        now: Time,
    ) -> Result<(i64, String), ApiError> {
        if name.is_empty() || name.len() > NAME_LIMIT {
            return Err(ApiError::Invalid("name must be 1 to 64 characters"));
        }
        if labels.is_empty() || labels.len() > 100 {
            return Err(ApiError::Invalid("labels must have 1 to 100 entries"));
        }
        if self.runners.values().any(|runner| runner.scope == scope && runner.name == name) {
            return Err(ApiError::NameTaken);
        }
        let id = self.next_id();
        let jit = self.secret("jit-");
        let runner = Runner {
            name: name.to_owned(),
            scope,
            group,
            labels: labels.iter().map(|label| label.to_lowercase()).collect(),
            jit: jit.clone(),
            created: now,
            online: false,
            job: None,
            shows_busy: Time::NEVER,
            deaf: None,
            ephemeral: true,
        };
        self.add_runner(id, runner);
        Ok((id, jit))
    }

    /// A scope's runners, in id order.
    pub fn list_runners(&self, scope: Scope, now: Time) -> Vec<ListedRunner> {
        let stale = self.mischief.stale;
        let here = self.runners.iter().filter(|(_, runner)| runner.scope == scope);
        let shown = here.filter(|(_, runner)| !stale || now.since(runner.created) > LAG);
        let mut listed: Vec<ListedRunner> = shown
            .map(|(&id, runner)| ListedRunner {
                id,
                busy: runner.job.is_some() && now >= runner.shows_busy,
                runner: runner.clone(),
            })
            .collect();
        if stale {
            let gone = self.gone.iter().filter(|(at, _, runner)| runner.scope == scope && now.since(*at) < LAG);
            listed.extend(gone.map(|(_, id, runner)| {
                let runner = Runner { online: false, ..runner.clone() };
                ListedRunner { id: *id, busy: false, runner }
            }));
        }
        listed
    }

    /// Deletes a runner entry.
    pub fn delete_runner(&mut self, scope: Scope, id: i64) -> Result<(), ApiError> {
        let runner = self.runners.get(&id).filter(|runner| runner.scope == scope).ok_or(ApiError::NotFound)?;
        if runner.job.is_some() {
            return Err(ApiError::RunnerBusy);
        }
        self.forget_runner(id);
        Ok(())
    }

    /// One job of a repository.
    pub fn job(&self, repo: i64, id: i64) -> Result<&Job, ApiError> {
        self.jobs.get(&id).filter(|job| job.repo == repo).ok_or(ApiError::NotFound)
    }

    /// An App's delivery log, newest first.
    pub fn deliveries(&self, kind: AccountKind) -> Vec<&Delivery> {
        let mut log: Vec<&Delivery> = self.log.iter().filter(|it| it.kind == kind && it.over).collect();
        log.sort_by_key(|delivery| std::cmp::Reverse((delivery.at, delivery.id)));
        log
    }
}
