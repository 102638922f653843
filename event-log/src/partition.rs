//! Which partition a learner's records go to.
//!
//! Always true: the same school and user give the same key and, for the same count, the same
//! partition, in every process and on both logs. The hash is Kafka's own, so that any Kafka client
//! which sends [`record_key`] as the key agrees.

use chalkstream_schemas::{PartitionId, SchoolId, record_key};

/// The name of the rule, a part of the log's identity.
pub const PARTITIONER: &str = "murmur2-length-prefixed-school-user";

/// The seed of Kafka's default partitioner.
const KAFKA_SEED: u32 = 0x9747_b28c;

/// The partition of a learner among `partitions` of them.
pub fn partition_of(school: &SchoolId, user: impl AsRef<str>, partitions: u32) -> PartitionId {
    partition_of_key(&record_key(school, user), partitions)
}

/// The partition of a learner whose [`record_key`] this is, among `partitions` of them.
pub fn partition_of_key(key: &[u8], partitions: u32) -> PartitionId {
    PartitionId::new(kafka_hash(key) % partitions.max(1))
}

fn kafka_hash(bytes: &[u8]) -> u32 {
    murmur2::murmur2(bytes, KAFKA_SEED) & 0x7fff_ffff
}

#[cfg(test)]
mod tests {
    use chalkstream_schemas::UserId;

    use super::*;

    #[track_caller]
    fn check(bytes: &[u8], signed: i32) {
        assert_eq!(kafka_hash(bytes), signed.cast_unsigned() & 0x7fff_ffff, "{bytes:?}");
    }

    /// The values of `UtilsTest.testMurmur2` in Apache Kafka.
    #[test]
    fn the_hash_is_kafkas() {
        check(b"21", -973_932_308);
        check(b"foobar", -790_332_482);
        check(b"a-little-bit-long-string", -985_981_536);
        check(b"a-little-bit-longer-string", -1_486_304_829);
        check(b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971);
        check(b"abc", 479_470_107);
    }

    #[test]
    fn learners_spread_over_all_partitions() {
        let school = SchoolId::parse("lincoln").unwrap();
        let mut counts = [0_u32; 12];
        for user in 0..12_000 {
            let user = UserId::parse(&format!("learner-{user}")).unwrap();
            counts[usize::try_from(partition_of(&school, &user, 12).get()).unwrap()] += 1;
        }
        assert!(counts.iter().all(|count| (850..1150).contains(count)), "{counts:?}");
    }
}
