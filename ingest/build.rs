//! Generates the gRPC service, with protox (no protoc needed): the server for this crate, and the
//! client and its messages for the tests.

use std::error::Error;
use std::path::{Path, PathBuf};

const PROTOS: &str = "../schemas/proto";
const EVENTS: &str = "::chalkstream_schemas::proto::events::v1";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed={PROTOS}");
    let mut compiler = protox::Compiler::new([PROTOS])?;
    compiler.include_source_info(true).include_imports(true);
    compiler.open_file("chalkstream/ingest/v1/ingest.proto")?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    let folder = |name: &str| -> std::io::Result<PathBuf> {
        let path = out.join(name);
        std::fs::create_dir_all(&path)?;
        Ok(path)
    };
    let generated = |path: &Path| {
        tonic_prost_build::configure()
            .out_dir(path)
            .extern_path(".chalkstream.events.v1", EVENTS)
            .emit_rerun_if_changed(false)
    };
    generated(&folder("server")?)
        .build_client(false)
        // The batch stays bytes: it is read by the same code as one that comes by POST /v1/events.
        .extern_path(".chalkstream.ingest.v1.IngestBatchRequest", "crate::grpc::RawRequest")
        .compile_fds(compiler.file_descriptor_set())?;
    generated(&folder("client")?)
        .build_server(false)
        .compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}
