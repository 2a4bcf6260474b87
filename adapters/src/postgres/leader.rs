//! Leadership, and the writes that only a leader makes.

use engine::{
    decision::Write,
    facts::Written,
    ids::{Epoch, Span},
};
use sqlx::PgPool;

use super::{reserve, state};
use crate::ports::{Lease, StoreWrite};

pub(super) async fn acquire(pool: &PgPool, holder: &str, ttl: Span) -> sqlx::Result<Option<Lease>> {
    let epoch = sqlx::query_scalar!(
        r#"UPDATE leadership SET epoch = epoch + 1, holder = $1, expires_at = clock_timestamp() + $2 * interval '1 millisecond'
           WHERE holder IS NULL OR expires_at <= clock_timestamp() RETURNING epoch"#,
        holder,
        ttl.0 as f64,
    )
    .fetch_optional(pool)
    .await?;
    Ok(epoch.map(|epoch| Lease::granted(Epoch(epoch))))
}

pub(super) async fn renew(pool: &PgPool, lease: &Lease, ttl: Span) -> sqlx::Result<bool> {
    let renewed = sqlx::query!(
        r#"UPDATE leadership SET expires_at = clock_timestamp() + $2 * interval '1 millisecond'
           WHERE epoch = $1 AND holder IS NOT NULL"#,
        lease.epoch().0,
        ttl.0 as f64,
    )
    .execute(pool)
    .await?;
    Ok(renewed.rows_affected() == 1)
}

pub(super) async fn release(pool: &PgPool, lease: &Lease) -> sqlx::Result<()> {
    sqlx::query!("UPDATE leadership SET holder = NULL WHERE epoch = $1", lease.epoch().0)
        .execute(pool)
        .await
        .map(|_| ())
}

/// One transaction, with a number of statements that does not depend on how many writes there are, as long as
/// reservations stand together and nothing is written twice. `None` when the lease's epoch is not the current one: then
/// nothing is written.
pub(super) async fn write(pool: &PgPool, lease: &Lease, writes: &[StoreWrite]) -> sqlx::Result<Option<Vec<Written>>> {
    let mut transaction = pool.begin().await?;
    // Shared: a successor waits until this transaction is over, and this one sees a successor that was before it.
    let current = sqlx::query_scalar!(
        r#"SELECT epoch FROM leadership WHERE epoch = $1 AND holder IS NOT NULL FOR SHARE"#,
        lease.epoch().0,
    )
    .fetch_optional(&mut *transaction)
    .await?;
    if current.is_none() {
        return Ok(None);
    }
    let mut written = vec![Written::RefusedState; writes.len()];
    let is_reserve = |&(_, write): &(usize, &StoreWrite)| matches!(write.write, Write::Reserve { .. });
    let all: Vec<(usize, &StoreWrite)> = writes.iter().enumerate().collect();
    for run in all.chunk_by(|a, b| is_reserve(a) == is_reserve(b)) {
        if run.first().is_some_and(is_reserve) {
            reserve::reserve(&mut transaction, run, &mut written).await?;
        } else {
            state::write(&mut transaction, run, &mut written).await?;
        }
    }
    transaction.commit().await?;
    Ok(Some(written))
}
