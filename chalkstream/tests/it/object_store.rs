//! An S3 store in this process, over a folder: `s3s-fs`, and behind a door that can be shut.
//!
//! Always true: puts are done one after the other, because `s3s-fs` looks whether an object exists
//! and writes it in two steps; what a lake needs of a conditional put is that both are one.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use tokio::net::TcpListener;
use tokio::sync::Mutex;

use crate::proxy::{Mode, Proxy};
use crate::support::{Environment, runtime, settings};

const BUCKET: &str = "lake";

#[derive(Debug)]
pub(crate) struct ObjectStore {
    root: PathBuf,
    door: Proxy,
}

impl ObjectStore {
    pub(crate) fn start(root: &Path) -> Self {
        std::fs::create_dir_all(root.join(BUCKET)).unwrap();
        let mut builder = S3ServiceBuilder::new(s3s_fs::FileSystem::new(root).unwrap());
        builder.set_auth(SimpleAuth::from_single("tester", "secret"));
        let service = builder.build();
        let listener = runtime().block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let door = Proxy::start();
        door.point_to(listener.local_addr().unwrap());
        let one_put = Arc::new(Mutex::new(()));
        runtime().spawn(async move {
            while let Ok((connection, _)) = listener.accept().await {
                let (service, one_put) = (service.clone(), Arc::clone(&one_put));
                let answer = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
                    let (service, one_put) = (service.clone(), Arc::clone(&one_put));
                    async move {
                        let alone = match *request.method() {
                            hyper::Method::PUT => Some(one_put.lock().await),
                            _ => None,
                        };
                        let answered = Service::call(&service, request).await;
                        drop(alone);
                        answered
                    }
                });
                let server = auto::Builder::new(TokioExecutor::new());
                tokio::spawn(async move {
                    // A client that goes away is none of the store's business.
                    drop(server.serve_connection(TokioIo::new(connection), answer).await);
                });
            }
        });
        Self { root: root.to_owned(), door }
    }

    /// What a role is told to keep its lake there.
    pub(crate) fn settings(&self) -> Environment {
        settings(&[
            ("lake.url", &format!("s3://{BUCKET}/school-year")),
            ("lake.options.aws_endpoint", &self.door.url()),
            ("lake.options.aws_allow_http", "true"),
            ("lake.options.aws_region", "us-east-1"),
            ("lake.options.aws_access_key_id", "tester"),
            ("lake.options.aws_secret_access_key", "secret"),
        ])
    }

    /// Where a table's objects lie on the disk.
    pub(crate) fn table(&self, name: &str) -> PathBuf {
        self.root.join(BUCKET).join("school-year").join(name)
    }

    /// Nobody reaches it any more.
    pub(crate) fn shut(&self) {
        self.door.set(Mode::Down);
    }

    /// How many connections found it shut.
    pub(crate) fn missed(&self) -> u64 {
        self.door.cuts()
    }

    pub(crate) fn open(&self) {
        self.door.set(Mode::Open);
    }
}
