//! The log on Apache Kafka.

use rdkafka::error::KafkaError;

use crate::Retry;

/// Whether trouble with Kafka passes by itself.
pub(crate) fn retry(_error: &KafkaError) -> Retry {
    Retry::Later
}

/// What a person can do about trouble with Kafka.
pub(crate) fn hint(_error: &KafkaError, brokers: &str) -> String {
    format!("check that Kafka runs and answers at {brokers}")
}
