//! Panics of the code under test: failures like any other.

use std::{
    any::Any,
    cell::RefCell,
    env,
    panic::{self, AssertUnwindSafe, PanicHookInfo},
    sync::Once,
};

/// What a run that panics breaks.
pub const PANIC: &str = "panic";

thread_local! {
    /// How deep in [`caught`] this thread is, and where it panicked last.
    static CAUGHT: RefCell<(u32, String)> = const { RefCell::new((0, String::new())) };
}

/// What `work` comes to, or where it panicked and what it said, in one line. The panic itself shows nothing, unless
/// `RUST_BACKTRACE` asks for more than that.
///
/// # Errors
/// It panicked.
pub fn caught<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    static NOTES: Once = Once::new();
    NOTES.call_once(|| {
        let tell = panic::take_hook();
        let tells_all = env::var_os("RUST_BACKTRACE").is_some_and(|value| value != "0");
        panic::set_hook(Box::new(move |info| {
            if !is_noted(info) || tells_all {
                tell(info);
            }
        }));
    });
    CAUGHT.with_borrow_mut(|caught| caught.0 += 1);
    let done = panic::catch_unwind(AssertUnwindSafe(work));
    let place = CAUGHT.with_borrow_mut(|caught| {
        caught.0 -= 1;
        caught.1.clone()
    });
    done.map_err(|panic| format!("{place}: {}", said(&*panic)))
}

/// Notes where a panic is that [`caught`] waits for.
fn is_noted(info: &PanicHookInfo<'_>) -> bool {
    CAUGHT.with_borrow_mut(|caught| {
        caught.1 = info.location().map_or_else(String::new, |at| format!("{}:{}", at.file(), at.line()));
        caught.0 > 0
    })
}

/// A panic's message, in one line.
fn said(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("without a word");
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Where a panic was, by what [`caught`] says of it.
pub fn place(what: &str) -> &str {
    what.split_once(": ").map_or(what, |(place, _)| place)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_told_with_its_place_in_one_line() {
        assert_eq!(caught(|| 7), Ok(7));
        let line = line!() + 1;
        let what = caught(|| assert_eq!(1 + 1, 3, "of\n  sums")).unwrap_err();
        assert_eq!(place(&what), format!("{}:{line}", file!()));
        assert!(what.ends_with("assertion `left == right` failed: of sums left: 2 right: 3"), "{what}");
        let inner = caught(|| caught(|| panic!("in")).unwrap_err()).unwrap();
        assert!(inner.ends_with(": in"), "{inner}");
        assert!(caught(|| panic::panic_any(7)).unwrap_err().ends_with(": without a word"));
    }
}
