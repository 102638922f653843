//! The C interface of libchdb, made safe.
//!
//! In: bytes of SQL. Out: bytes in a ClickHouse format, or the text of an exception.
//! Always true: a result is destroyed exactly once, and not used after; a stream borrows its
//! connection, so that a connection runs one statement at a time; a connection is used by one
//! thread at a time (it is `Send`, not `Sync`); the library is never unloaded.
//! Not here: which connection serves whom (the engine), async (all calls block).
#![expect(unsafe_code, reason = "the binding to a C library")]

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::mem::{ManuallyDrop, MaybeUninit};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};

use crate::Exception;

type RawConnection = *mut c_void;
type RawResult = *mut c_void;
/// Names and values of `{name:Type}` substitutions.
pub(crate) type Parameters = [(String, Vec<u8>)];

type ConnectFn = unsafe extern "C" fn(c_int, *mut *mut c_char) -> *mut RawConnection;
type QueryFn = unsafe extern "C" fn(
    RawConnection,
    *const c_char,
    usize,
    *const c_char,
    usize,
    *const *const c_char,
    *const usize,
    *const *const c_char,
    *const usize,
    usize,
) -> RawResult;

/// The functions of a loaded library.
pub(crate) struct Api {
    connect: ConnectFn,
    close: unsafe extern "C" fn(*mut RawConnection),
    query: QueryFn,
    stream: QueryFn,
    fetch: unsafe extern "C" fn(RawConnection, RawResult) -> RawResult,
    cancel: unsafe extern "C" fn(RawConnection, RawResult),
    destroy: unsafe extern "C" fn(RawResult),
    buffer: unsafe extern "C" fn(RawResult) -> *const c_char,
    length: unsafe extern "C" fn(RawResult) -> usize,
    error: unsafe extern "C" fn(RawResult) -> *const c_char,
    rows_read: unsafe extern "C" fn(RawResult) -> u64,
    storage_rows_read: unsafe extern "C" fn(RawResult) -> u64,
    storage_bytes_read: unsafe extern "C" fn(RawResult) -> u64,
    rows_written: unsafe extern "C" fn(RawResult) -> u64,
    bytes_written: unsafe extern "C" fn(RawResult) -> u64,
    fault_handlers: SavedHandlers,
    _library: ManuallyDrop<Library>,
}

impl std::fmt::Debug for Api {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Api").finish_non_exhaustive()
    }
}

impl Api {
    /// Loads the library and keeps its hands off our signals.
    pub(crate) fn load(path: &Path) -> Result<Self, libloading::Error> {
        let fault_handlers = SavedHandlers::of(FAULTS);
        // SAFETY: libchdb's initialisers have no preconditions; it is loaded once a process.
        let library = unsafe { Library::open(Some(path), RTLD_NOW | RTLD_LOCAL)? };
        // SAFETY: every name below is given its signature in chdb.h of this release; the functions
        // outlive their use because the library is never unloaded.
        let api = unsafe {
            let signals = library
                .get::<unsafe extern "C" fn(c_int)>(b"chdb_set_signal_handlers_enabled\0")?;
            signals(0);
            Self {
                connect: *library.get(b"chdb_connect\0")?,
                close: *library.get(b"chdb_close_conn\0")?,
                query: *library.get(b"chdb_query_with_params_n\0")?,
                stream: *library.get(b"chdb_stream_query_with_params_n\0")?,
                fetch: *library.get(b"chdb_stream_fetch_result\0")?,
                cancel: *library.get(b"chdb_stream_cancel_query\0")?,
                destroy: *library.get(b"chdb_destroy_query_result\0")?,
                buffer: *library.get(b"chdb_result_buffer\0")?,
                length: *library.get(b"chdb_result_length\0")?,
                error: *library.get(b"chdb_result_error\0")?,
                rows_read: *library.get(b"chdb_result_rows_read\0")?,
                storage_rows_read: *library.get(b"chdb_result_storage_rows_read\0")?,
                storage_bytes_read: *library.get(b"chdb_result_storage_bytes_read\0")?,
                rows_written: *library.get(b"chdb_result_rows_written\0")?,
                bytes_written: *library.get(b"chdb_result_bytes_written\0")?,
                fault_handlers,
                _library: ManuallyDrop::new(library),
            }
        };
        api.fault_handlers.restore();
        Ok(api)
    }

    /// Opens a connection. The first one of a process starts the engine: there alone the handlers
    /// of all other signals are put back too, because nobody else installs one meanwhile.
    pub(crate) fn connect(
        self: &Arc<Self>,
        arguments: &[String],
        starts_engine: bool,
    ) -> Option<Connection> {
        let others = starts_engine.then(|| SavedHandlers::of(OTHERS));
        let arguments: Vec<CString> =
            arguments.iter().filter_map(|argument| CString::new(argument.as_str()).ok()).collect();
        let mut pointers: Vec<*mut c_char> =
            arguments.iter().map(|argument| argument.as_ptr().cast_mut()).collect();
        let count = c_int::try_from(pointers.len()).ok()?;
        // SAFETY: `pointers` holds `count` strings that end in NUL and outlive the call; chdb.h
        // declares them `char **` in the manner of `main` and the engine copies them.
        let handle = unsafe { (self.connect)(count, pointers.as_mut_ptr()) };
        // Every connect resets the handlers of faults, among them Rust's own for stack overflows.
        self.fault_handlers.restore();
        if let Some(others) = others {
            others.restore();
        }
        // SAFETY: a handle that is not null points to a connection until it is closed.
        if handle.is_null() || unsafe { *handle }.is_null() {
            return None;
        }
        OPEN.fetch_add(1, Ordering::AcqRel);
        if starts_engine {
            end_without_destructors();
        }
        Some(Connection { api: Arc::clone(self), handle, result_max_bytes: usize::MAX })
    }
}

/// One connection: its own settings, current database and temporary tables.
pub(crate) struct Connection {
    api: Arc<Api>,
    handle: *mut RawConnection,
    result_max_bytes: usize,
}

// SAFETY: the engine keeps no thread-local state of a connection between calls (it makes a thread
// status for each), and `&mut self` keeps calls apart.
unsafe impl Send for Connection {}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").finish_non_exhaustive()
    }
}

/// What one statement, or one piece of a stream, gave.
#[derive(Clone, Debug, Default)]
pub(crate) struct Output {
    /// The result in the format asked for.
    pub(crate) bytes: Vec<u8>,
    /// Rows of the result.
    pub(crate) result_rows: u64,
    pub(crate) read_rows: u64,
    pub(crate) read_bytes: u64,
    pub(crate) written_rows: u64,
    pub(crate) written_bytes: u64,
}

impl Connection {
    /// From now on a result, or a piece of one, that is larger is an error: it would be copied out
    /// of what the engine counts.
    pub(crate) fn limit_results(&mut self, max_bytes: usize) {
        self.result_max_bytes = max_bytes;
    }

    /// Runs one statement and waits for all of its result.
    pub(crate) fn query(
        &mut self,
        sql: &[u8],
        format: &str,
        parameters: &Parameters,
    ) -> Result<Output, Exception> {
        let result = self.call(self.api.query, sql, format, parameters);
        self.take(result)
    }

    /// Begins a SELECT whose result is fetched piece by piece. The engine refuses other statements,
    /// and more than one statement.
    pub(crate) fn stream(
        &mut self,
        sql: &[u8],
        format: &str,
        parameters: &Parameters,
    ) -> Result<Stream<'_>, Exception> {
        let result = self.call(self.api.stream, sql, format, parameters);
        if let Some(exception) = self.exception_of(result) {
            self.destroy(result);
            return Err(exception);
        }
        Ok(Stream { connection: self, result, ended: false })
    }

    fn call(
        &self,
        function: QueryFn,
        sql: &[u8],
        format: &str,
        parameters: &Parameters,
    ) -> RawResult {
        let names: Vec<*const c_char> = parameters.iter().map(|(n, _)| n.as_ptr().cast()).collect();
        let name_lengths: Vec<usize> = parameters.iter().map(|(name, _)| name.len()).collect();
        let values: Vec<*const c_char> =
            parameters.iter().map(|(_, v)| v.as_ptr().cast()).collect();
        let value_lengths: Vec<usize> = parameters.iter().map(|(_, value)| value.len()).collect();
        // SAFETY: the handle is open; every pointer goes with its length, nothing needs a NUL, and
        // all of it outlives the call, which copies what it keeps.
        unsafe {
            function(
                *self.handle,
                sql.as_ptr().cast(),
                sql.len(),
                format.as_ptr().cast(),
                format.len(),
                names.as_ptr(),
                name_lengths.as_ptr(),
                values.as_ptr(),
                value_lengths.as_ptr(),
                parameters.len(),
            )
        }
    }

    fn exception_of(&self, result: RawResult) -> Option<Exception> {
        if result.is_null() {
            return Some(Exception::new(1002, "UNKNOWN_EXCEPTION", "libchdb gave no result"));
        }
        // SAFETY: the result is live; its error is null or a string that ends in NUL and lives as
        // long as the result, and it is copied here.
        unsafe {
            let error = (self.api.error)(result);
            (!error.is_null()).then(|| Exception::parse(&CStr::from_ptr(error).to_string_lossy()))
        }
    }

    fn destroy(&self, result: RawResult) {
        if !result.is_null() {
            // SAFETY: the result is live, and every caller gives it up here.
            unsafe { (self.api.destroy)(result) }
        }
    }

    /// Copies a result out and destroys it.
    fn take(&self, result: RawResult) -> Result<Output, Exception> {
        if let Some(exception) = self.exception_of(result) {
            self.destroy(result);
            return Err(exception);
        }
        // SAFETY: the result is live.
        let length = unsafe { (self.api.length)(result) };
        if length > self.result_max_bytes {
            self.destroy(result);
            let message = format_args!(
                "the result has {length} bytes, and {} may be made at once: ask for less, or in a \
                 format that is sent row by row, such as JSONEachRow, CSV or Native",
                self.result_max_bytes
            );
            return Err(Exception::new(396, "TOO_MANY_ROWS_OR_BYTES", message));
        }
        // SAFETY: the result is live; its buffer is null or holds `length` bytes that live as long
        // as the result, and they are copied here.
        let output = unsafe {
            let buffer = (self.api.buffer)(result);
            let bytes = if length == 0 || buffer.is_null() {
                Vec::new()
            } else {
                std::slice::from_raw_parts(buffer.cast::<u8>(), length).to_vec()
            };
            Output {
                bytes,
                result_rows: (self.api.rows_read)(result),
                read_rows: (self.api.storage_rows_read)(result),
                read_bytes: (self.api.storage_bytes_read)(result),
                written_rows: (self.api.rows_written)(result),
                written_bytes: (self.api.bytes_written)(result),
            }
        };
        self.destroy(result);
        Ok(output)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // SAFETY: the handle is open and closed only here; a stream cannot outlive the borrow.
        unsafe { (self.api.close)(self.handle) }
        OPEN.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The rest of a SELECT. Dropping it cancels the query.
pub(crate) struct Stream<'a> {
    connection: &'a mut Connection,
    result: RawResult,
    ended: bool,
}

impl std::fmt::Debug for Stream<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stream").field("ended", &self.ended).finish_non_exhaustive()
    }
}

impl Stream<'_> {
    /// The next piece, or `None` at the end.
    pub(crate) fn next(&mut self) -> Result<Option<Output>, Exception> {
        if self.ended {
            return Ok(None);
        }
        // SAFETY: connection and stream are live, and `&mut` keeps calls apart.
        let piece = unsafe { (self.connection.api.fetch)(*self.connection.handle, self.result) };
        match self.connection.take(piece) {
            Ok(output) => {
                // The engine ends a stream with a piece of no rows, which may carry a format's
                // header or footer; fetching on would be an error.
                self.ended = output.result_rows == 0;
                Ok((!output.bytes.is_empty() || !self.ended).then_some(output))
            }
            Err(exception) => {
                self.ended = true;
                Err(exception)
            }
        }
    }
}

impl Drop for Stream<'_> {
    fn drop(&mut self) {
        if !self.ended {
            // SAFETY: connection and stream are live; an ended stream is not cancelled.
            unsafe { (self.connection.api.cancel)(*self.connection.handle, self.result) }
        }
        self.connection.destroy(self.result);
    }
}

/// Connections that are open.
static OPEN: AtomicUsize = AtomicUsize::new(0);

/// A process that ends while the engine runs (an error on the way, a failed test) would have the
/// library's destructors run under its threads, and crash. It ends at once instead, with its
/// status; Rust has flushed standard output by then.
fn end_without_destructors() {
    unsafe extern "C" {
        fn on_exit(function: extern "C" fn(c_int, *mut c_void), argument: *mut c_void) -> c_int;
    }
    extern "C" fn end(status: c_int, _argument: *mut c_void) {
        if OPEN.load(Ordering::Acquire) > 0 {
            // SAFETY: ends the process; nothing else runs on this thread.
            unsafe { libc::_exit(status) }
        }
    }
    // SAFETY: `end` is a plain function that touches one atomic, and needs no argument.
    let registered = unsafe { on_exit(end, std::ptr::null_mut()) };
    if registered != 0 {
        tracing::debug!("no handler for the process's end could be registered");
    }
}

/// What libchdb resets to the default on every connect, though it is told to leave signals alone.
const FAULTS: &[c_int] = &[
    libc::SIGABRT,
    libc::SIGSEGV,
    libc::SIGILL,
    libc::SIGBUS,
    libc::SIGSYS,
    libc::SIGFPE,
    libc::SIGTSTP,
    libc::SIGTRAP,
];
/// What an engine that starts might take from us: Ctrl-C and its like.
const OTHERS: &[c_int] = &[
    libc::SIGINT,
    libc::SIGTERM,
    libc::SIGHUP,
    libc::SIGQUIT,
    libc::SIGPIPE,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGCHLD,
];

/// Signal handlers as they were at a moment.
struct SavedHandlers(Vec<(c_int, libc::sigaction)>);

impl SavedHandlers {
    fn of(signals: &[c_int]) -> Self {
        let one = |signal: &c_int| {
            let mut action = MaybeUninit::<libc::sigaction>::zeroed();
            // SAFETY: a null new action only asks; `action` has room for the answer, which is
            // taken only when the call succeeded.
            unsafe {
                (libc::sigaction(*signal, std::ptr::null(), action.as_mut_ptr()) == 0)
                    .then(|| (*signal, action.assume_init()))
            }
        };
        Self(signals.iter().filter_map(one).collect())
    }

    fn restore(&self) {
        for (signal, action) in &self.0 {
            // SAFETY: the action was in force before, so its handler is a valid function.
            unsafe { libc::sigaction(*signal, action, std::ptr::null_mut()) };
        }
    }
}
