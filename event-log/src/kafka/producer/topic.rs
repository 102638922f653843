//! A topic of a producer, by its handle.
//!
//! In: records. Out: whether librdkafka took each into its queue; their acknowledgements come to the
//! producer's context as those of `ThreadedProducer::send` do.
//! Always true: a handle keeps its producer, and is given back before it.
//! Why not `send`: it names the topic with every record, and librdkafka looks the name up each time,
//! under the one lock for writing that all threads of the client share.
#![expect(unsafe_code, reason = "rdkafka has no safe way to produce by a topic's handle")]

use std::ffi::{CString, c_void};
use std::ptr::{self, NonNull};

use rdkafka::bindings::{
    RD_KAFKA_MSG_F_COPY, rd_kafka_last_error, rd_kafka_producev, rd_kafka_resp_err_t,
    rd_kafka_topic_destroy, rd_kafka_topic_new, rd_kafka_topic_t, rd_kafka_vtype_t,
};
use rdkafka::error::KafkaError;
use rdkafka::producer::{Producer, ProducerContext, ThreadedProducer};

use crate::NewRecord;

/// A topic, and the producer whose it is.
pub(super) struct ProducerTopic<C: ProducerContext<DeliveryOpaque = usize> + 'static> {
    handle: NonNull<rd_kafka_topic_t>,
    producer: ThreadedProducer<C>,
}

// SAFETY: librdkafka's functions may be called from all threads at once ("The library is completely
// thread-safe", INTRODUCTION.md), and the handle is only given to them.
unsafe impl<C: ProducerContext<DeliveryOpaque = usize> + 'static> Send for ProducerTopic<C> {}
// SAFETY: as above.
unsafe impl<C: ProducerContext<DeliveryOpaque = usize> + 'static> Sync for ProducerTopic<C> {}

impl<C: ProducerContext<DeliveryOpaque = usize> + 'static> ProducerTopic<C> {
    /// A topic of this producer, with the producer's settings.
    pub(super) fn new(producer: &ThreadedProducer<C>, name: &str) -> Result<Self, KafkaError> {
        let name_c = CString::new(name)?;
        // SAFETY: the producer lives, the name ends with a zero and is copied, and no settings of
        // the topic's own are given.
        let handle = unsafe {
            rd_kafka_topic_new(producer.client().native_ptr(), name_c.as_ptr(), ptr::null_mut())
        };
        let Some(handle) = NonNull::new(handle) else {
            // SAFETY: it reads what the call before left for this thread.
            let why = unsafe { rd_kafka_last_error() };
            return Err(KafkaError::MessageProduction(why.into()));
        };
        Ok(Self { handle, producer: producer.clone() })
    }

    /// Hands a copy of the record to the producer, whose context gets `ticket` with its fate. After
    /// an error it gets nothing.
    pub(super) fn send(&self, record: &NewRecord, ticket: usize) -> Result<(), KafkaError> {
        let (key, payload) = (&record.key, &record.payload);
        // SAFETY: handle and client live as long as `self`; each tag is followed by what rdkafka.h
        // wants after it, with the type that it wants; key and payload are read before the call
        // returns (`RD_KAFKA_MSG_F_COPY`), and written never.
        let error = unsafe {
            rd_kafka_producev(
                self.producer.client().native_ptr(),
                rd_kafka_vtype_t::RD_KAFKA_VTYPE_RKT,
                self.handle.as_ptr(),
                rd_kafka_vtype_t::RD_KAFKA_VTYPE_PARTITION,
                record.partition.get().cast_signed(),
                rd_kafka_vtype_t::RD_KAFKA_VTYPE_MSGFLAGS,
                RD_KAFKA_MSG_F_COPY,
                rd_kafka_vtype_t::RD_KAFKA_VTYPE_VALUE,
                payload.as_ptr().cast::<c_void>(),
                payload.len(),
                rd_kafka_vtype_t::RD_KAFKA_VTYPE_KEY,
                key.as_ptr().cast::<c_void>(),
                key.len(),
                rd_kafka_vtype_t::RD_KAFKA_VTYPE_OPAQUE,
                ptr::without_provenance_mut::<c_void>(ticket),
                rd_kafka_vtype_t::RD_KAFKA_VTYPE_TIMESTAMP,
                record.timestamp.as_ms(),
                rd_kafka_vtype_t::RD_KAFKA_VTYPE_END,
            )
        };
        match error {
            rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR => Ok(()),
            error => Err(KafkaError::MessageProduction(error.into())),
        }
    }
}

impl<C: ProducerContext<DeliveryOpaque = usize> + 'static> Drop for ProducerTopic<C> {
    fn drop(&mut self) {
        // SAFETY: the handle is ours, nobody has it after this, and its producer still lives.
        unsafe { rd_kafka_topic_destroy(self.handle.as_ptr()) };
    }
}
