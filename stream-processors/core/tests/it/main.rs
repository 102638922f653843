//! What holds for the crate as a whole: its dependencies, its tables, its memory and its speed.

mod dependencies;
mod memory;
mod tables;
