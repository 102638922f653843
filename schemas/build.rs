//! Compiles `proto/` with protox (no protoc needed) and generates its Rust types.

use std::error::Error;
use std::path::Path;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let files = ["chalkstream/events/v1/events.proto", "chalkstream/log/v1/record.proto"];
    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_source_info(true).include_imports(true).open_files(files)?;
    let out = std::env::var("OUT_DIR")?;
    std::fs::write(Path::new(&out).join("descriptors.bin"), compiler.encode_file_descriptor_set())?;
    prost_build::Config::new()
        // In a fixed order, so that the same message always becomes the same JSON.
        .btree_map(["."])
        .boxed(".chalkstream.log.v1.Record.body.event")
        .compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}
