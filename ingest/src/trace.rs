//! Spans of the parts of a request's work, within the request's own.
//!
//! Always true: no attribute holds user ids, bodies, queries or keys. While nobody collects traces a
//! part costs a look at what `tracing` keeps beside each span's place in the code.
//! Not here: the request's span (`access`), where spans go, and which share of them (the binary).

/// The span of a part of a request's work.
macro_rules! part {
    ($name:literal $(, $($field:tt)*)?) => {
        tracing::trace_span!(target: chalkstream_access::TRACE_TARGET, $name $(, $($field)*)?)
    };
}
pub(crate) use part;

/// Where records came to lie: `3:120-131` is partition 3 and its offsets, both included.
pub(crate) fn offsets(places: impl Iterator<Item = (u32, u64)>) -> String {
    let mut ranges = std::collections::BTreeMap::new();
    for (partition, offset) in places {
        let range = ranges.entry(partition).or_insert((offset, offset));
        *range = (range.0.min(offset), range.1.max(offset));
    }
    let texts =
        ranges.iter().map(|(partition, (first, last))| format!("{partition}:{first}-{last}"));
    texts.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_are_told_by_partition() {
        let places = [(3, 121), (0, 7), (3, 120), (3, 131)];
        assert_eq!(offsets(places.into_iter()), "0:7-7 3:120-131");
        assert_eq!(offsets(std::iter::empty()), "");
    }

    #[test]
    fn nothing_is_made_while_nobody_collects() {
        assert!(part!("append").is_disabled());
    }
}
