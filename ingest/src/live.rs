//! Options that may change while ingest runs, and what parts build from them.
//!
//! In: the options at the start, and new ones at each reload. Out: [`Live::get`], the options as they
//! are now, and [`Built::get`], what a part made of them.
//! Always true: a reload is all or nothing, because every part builds what the new options ask for
//! before anything changes; what has looked goes on with what it saw; a key of
//! [`IngestOptions::FIXED`] keeps the value of the start, and is named.
//! Not here: where new options come from (the binary, on SIGHUP).

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use crate::options::{IngestOptions, OptionsError};

/// The options, read through this one place. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Live {
    inner: Arc<Inner>,
}

struct Inner {
    options: ArcSwap<IngestOptions>,
    /// What is built again at a reload; the lock makes reloads take turns.
    parts: Mutex<Vec<Box<dyn Part>>>,
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inner").field("options", &self.options).finish_non_exhaustive()
    }
}

impl Live {
    pub(crate) fn new(options: IngestOptions) -> Result<Self, OptionsError> {
        options.validate()?;
        let options = ArcSwap::from_pointee(options);
        Ok(Self { inner: Arc::new(Inner { options, parts: Mutex::new(Vec::new()) }) })
    }

    /// The options now. Take them once a request, so that all of it sees the same.
    pub(crate) fn get(&self) -> Arc<IngestOptions> {
        self.inner.options.load_full()
    }

    /// What `make` builds from the options: now, and again at every reload.
    pub(crate) fn build<T: Send + Sync + 'static>(
        &self,
        make: impl Fn(&IngestOptions) -> Result<T, OptionsError> + Send + Sync + 'static,
    ) -> Result<Arc<Built<T>>, OptionsError> {
        let mut parts = self.inner.parts.lock();
        let made = ArcSwap::from_pointee(make(&self.get())?);
        let built = Arc::new(Built { made, make: Box::new(make) });
        parts.push(Box::new(Arc::clone(&built)));
        Ok(built)
    }

    /// Changes to `new`, or to nothing of it. Returns the keys that only a restart can change.
    pub(crate) fn reload(&self, mut new: IngestOptions) -> Result<Vec<&'static str>, OptionsError> {
        let parts = self.inner.parts.lock();
        new.validate()?;
        let kept = new.keep_fixed(&self.get());
        let ready = parts.iter().map(|part| part.prepare(&new)).collect::<Result<Vec<_>, _>>()?;
        self.inner.options.store(Arc::new(new));
        for change in ready {
            change();
        }
        Ok(kept)
    }
}

type Change<'a> = Box<dyn FnOnce() + 'a>;
type Make<T> = Box<dyn Fn(&IngestOptions) -> Result<T, OptionsError> + Send + Sync>;

trait Part: Send + Sync {
    /// Builds what the new options ask for; only the returned change takes it into use.
    fn prepare(&self, new: &IngestOptions) -> Result<Change<'_>, OptionsError>;
}

/// What a part made of the options.
pub(crate) struct Built<T> {
    made: ArcSwap<T>,
    make: Make<T>,
}

impl<T> Built<T> {
    /// As the options are now.
    pub(crate) fn get(&self) -> Arc<T> {
        self.made.load_full()
    }
}

impl<T: fmt::Debug> fmt::Debug for Built<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Built").field("made", &self.made).finish_non_exhaustive()
    }
}

impl<T: Send + Sync> Part for Arc<Built<T>> {
    fn prepare(&self, new: &IngestOptions) -> Result<Change<'_>, OptionsError> {
        let made = Arc::new((self.make)(new)?);
        Ok(Box::new(move || self.made.store(made)))
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use super::*;
    use crate::options::{ByteSize, Span};

    fn with_events(max_events: usize) -> IngestOptions {
        let max_events = NonZeroUsize::new(max_events).unwrap();
        IngestOptions { max_events, ..IngestOptions::default() }
    }

    #[test]
    fn a_reload_changes_the_options_and_what_was_built_from_them() {
        let live = Live::new(with_events(1)).unwrap();
        let built = live.build(|options| Ok(options.max_events.get() * 10)).unwrap();
        let before = live.get();
        assert_eq!(live.reload(with_events(2)), Ok(Vec::new()));
        assert_eq!((before.max_events.get(), live.get().max_events.get()), (1, 2));
        assert_eq!(*built.get(), 20);
    }

    #[test]
    fn one_part_that_refuses_keeps_everything_as_it_was() {
        let live = Live::new(with_events(1)).unwrap();
        let first = live.build(|options| Ok(options.max_events.get())).unwrap();
        let refuse = |options: &IngestOptions| match options.max_events.get() {
            1 => Ok(()),
            _ => Err(OptionsError::ZeroTimeout { key: "of the test" }),
        };
        live.build(refuse).unwrap();
        assert!(live.reload(with_events(2)).is_err());
        assert_eq!((live.get().max_events.get(), *first.get()), (1, 1));
        let contradiction =
            IngestOptions { max_event: ByteSize::mib(11), ..IngestOptions::default() };
        assert!(live.reload(contradiction).is_err());
        assert_eq!(live.get().max_event, ByteSize::kib(64));
    }

    #[test]
    fn a_key_that_needs_a_restart_keeps_its_value_and_is_named() {
        let live = Live::new(IngestOptions::default()).unwrap();
        let new = IngestOptions {
            listen: "127.0.0.1:1".to_owned(),
            retry_after: Span::secs(7),
            ..IngestOptions::default()
        };
        assert_eq!(live.reload(new), Ok(vec!["listen"]));
        assert_eq!(live.get().listen, IngestOptions::default().listen);
        assert_eq!(live.get().retry_after, Span::secs(7));
    }
}
