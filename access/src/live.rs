//! Options that may change while a port is open, and what parts build from them.
//!
//! In: the options at the start, and new ones at each reload. Out: [`Live::get`], the options as they
//! are now, and [`Built::get`], what a part made of them.
//! Always true: a reload is all or nothing, because every part builds what the new options ask for
//! before anything changes; what has looked goes on with what it saw; a key of
//! [`Options::keep_fixed`] keeps the value of the start, and is named.
//! Not here: where new options come from (the binary, on SIGHUP).

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::Mutex;

/// Options of a port.
pub trait Options: fmt::Debug + Send + Sync + 'static {
    /// Why they cannot work.
    type Error;

    /// Checks what no single key can show.
    fn validate(&self) -> Result<(), Self::Error>;

    /// Takes the keys that only a restart can change from `old`, and names those that differed.
    fn keep_fixed(&mut self, old: &Self) -> Vec<&'static str>;
}

/// What a section of options asks for cannot be done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{section}: {what}")]
pub struct SectionError {
    /// The section at fault.
    pub section: &'static str,
    /// What is wrong with it, as a sentence.
    pub what: String,
}

/// The options, read through this one place. Clones share them.
#[derive(Debug)]
pub struct Live<O: Options> {
    inner: Arc<Inner<O>>,
}

impl<O: Options> Clone for Live<O> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner) }
    }
}

struct Inner<O: Options> {
    options: ArcSwap<O>,
    /// What is built again at a reload; the lock makes reloads take turns.
    parts: Mutex<Vec<Box<dyn Part<O>>>>,
}

impl<O: Options> fmt::Debug for Inner<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inner").field("options", &self.options).finish_non_exhaustive()
    }
}

impl<O: Options> Live<O> {
    /// The options of the start, checked.
    pub fn new(options: O) -> Result<Self, O::Error> {
        options.validate()?;
        let options = ArcSwap::from_pointee(options);
        Ok(Self { inner: Arc::new(Inner { options, parts: Mutex::new(Vec::new()) }) })
    }

    /// The options now. Take them once a request, so that all of it sees the same.
    pub fn get(&self) -> Arc<O> {
        self.inner.options.load_full()
    }

    /// What `make` builds from the options: now, and again at every reload.
    pub fn build<T: Send + Sync + 'static>(
        &self,
        make: impl Fn(&O) -> Result<T, O::Error> + Send + Sync + 'static,
    ) -> Result<Arc<Built<T>>, O::Error> {
        let mut parts = self.inner.parts.lock();
        let built = Arc::new(Built::fixed(make(&self.get())?));
        parts.push(Box::new(Maker { built: Arc::clone(&built), make }));
        Ok(built)
    }

    /// Changes to `new`, or to nothing of it. Returns the keys that only a restart can change.
    pub fn reload(&self, mut new: O) -> Result<Vec<&'static str>, O::Error> {
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

trait Part<O: Options>: Send + Sync {
    /// Builds what the new options ask for; only the returned change takes it into use.
    fn prepare(&self, new: &O) -> Result<Change<'_>, O::Error>;
}

/// What a part made of the options.
pub struct Built<T> {
    made: ArcSwap<T>,
}

impl<T> Built<T> {
    /// What no reload changes.
    pub fn fixed(made: T) -> Self {
        Self { made: ArcSwap::from_pointee(made) }
    }

    /// As the options are now.
    pub fn get(&self) -> Arc<T> {
        self.made.load_full()
    }
}

impl<T: fmt::Debug> fmt::Debug for Built<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Built").field("made", &self.made).finish()
    }
}

/// A part, and how it is made.
struct Maker<T, M> {
    built: Arc<Built<T>>,
    make: M,
}

impl<O, T, M> Part<O> for Maker<T, M>
where
    O: Options,
    T: Send + Sync,
    M: Fn(&O) -> Result<T, O::Error> + Send + Sync,
{
    fn prepare(&self, new: &O) -> Result<Change<'_>, O::Error> {
        let made = Arc::new((self.make)(new)?);
        Ok(Box::new(move || self.built.made.store(made)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Debug, PartialEq)]
    struct Few {
        listen: u16,
        max_events: usize,
    }

    impl Options for Few {
        type Error = &'static str;

        fn validate(&self) -> Result<(), &'static str> {
            if self.max_events < 100 { Ok(()) } else { Err("too many") }
        }

        fn keep_fixed(&mut self, old: &Self) -> Vec<&'static str> {
            let kept = (self.listen != old.listen).then_some("listen");
            self.listen = old.listen;
            kept.into_iter().collect()
        }
    }

    fn with_events(max_events: usize) -> Few {
        Few { listen: 8080, max_events }
    }

    #[test]
    fn a_reload_changes_the_options_and_what_was_built_from_them() {
        let live = Live::new(with_events(1)).unwrap();
        let built = live.build(|options| Ok(options.max_events * 10)).unwrap();
        let before = live.get();
        assert_eq!(live.reload(with_events(2)), Ok(Vec::new()));
        assert_eq!((before.max_events, live.get().max_events), (1, 2));
        assert_eq!(*built.get(), 20);
    }

    #[test]
    fn one_part_that_refuses_keeps_everything_as_it_was() {
        let live = Live::new(with_events(1)).unwrap();
        let first = live.build(|options| Ok(options.max_events)).unwrap();
        let refuse = |options: &Few| match options.max_events {
            1 => Ok(()),
            _ => Err("refused by the test"),
        };
        live.build(refuse).unwrap();
        assert!(live.reload(with_events(2)).is_err());
        assert_eq!((live.get().max_events, *first.get()), (1, 1));
        assert!(live.reload(with_events(100)).is_err());
        assert_eq!(*live.get(), with_events(1));
    }

    #[test]
    fn a_key_that_needs_a_restart_keeps_its_value_and_is_named() {
        let live = Live::new(with_events(1)).unwrap();
        let new = Few { listen: 1, max_events: 7 };
        assert_eq!(live.reload(new), Ok(vec!["listen"]));
        assert_eq!(*live.get(), with_events(7));
    }
}
