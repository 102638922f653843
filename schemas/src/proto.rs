//! The Rust types of the protobuf files in `proto/`, generated when the crate is built.
//!
//! `events.v1` is public: what clients may send. It is written from the table in
//! [`crate::payload`], and a test keeps it equal. `log.v1` is how records are stored.

/// The compiled descriptors of all protobuf files (a `FileDescriptorSet`).
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// The event log's stored form.
pub mod log {
    /// Version 1.
    pub mod v1 {
        include!(concat!(env!("OUT_DIR"), "/chalkstream.log.v1.rs"));
    }
}

/// Events as clients may send them.
pub mod events {
    /// Version 1.
    pub mod v1 {
        include!(concat!(env!("OUT_DIR"), "/chalkstream.events.v1.rs"));
    }
}
