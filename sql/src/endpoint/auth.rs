//! Who asks: `admin` or `reader`.
//!
//! Always true: without a password one is `reader`, and only from this machine, by a name of this
//! machine, and not through a proxy: a web page in a browser here, or a proxy's clients, must not
//! count as somebody at this machine.

use std::net::{IpAddr, SocketAddr};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, header};

use crate::engine::Role;
use crate::{Credentials, Exception};

/// A user's name and password as sent.
#[derive(Clone, Default, PartialEq, Eq)]
pub(super) struct Claim {
    pub(super) user: Option<String>,
    pub(super) password: Option<String>,
}

impl std::fmt::Debug for Claim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Claim").field("user", &self.user).finish_non_exhaustive()
    }
}

impl Claim {
    /// From the headers; ClickHouse's own go first, then Basic. `None` if there is none.
    pub(super) fn from_headers(headers: &HeaderMap) -> Result<Option<Self>, Exception> {
        let text = |name: &str| {
            headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
        };
        let (user, password) = (text("x-clickhouse-user"), text("x-clickhouse-key"));
        if user.is_some() || password.is_some() {
            return Ok(Some(Self { user, password }));
        }
        let Some(value) = text(header::AUTHORIZATION.as_str()) else { return Ok(None) };
        let wrong = || failed("only HTTP Basic is understood in the header Authorization");
        let (scheme, encoded) = value.split_once(' ').ok_or_else(wrong)?;
        if !scheme.eq_ignore_ascii_case("basic") {
            return Err(wrong());
        }
        let decoded = STANDARD.decode(encoded.trim()).map_err(|_not_base64| wrong())?;
        let decoded = String::from_utf8(decoded).map_err(|_not_text| wrong())?;
        let (user, password) = decoded.split_once(':').unwrap_or((&decoded, ""));
        Ok(Some(Self { user: Some(user.to_owned()), password: Some(password.to_owned()) }))
    }
}

fn failed(reason: &str) -> Exception {
    Exception::new(516, "AUTHENTICATION_FAILED", format_args!("Authentication failed: {reason}"))
}

/// Decides. Pure.
pub(super) fn decide(
    claim: &Claim,
    credentials: &Credentials,
    from_here: bool,
) -> Result<Role, Exception> {
    let user = claim.user.as_deref().filter(|user| !user.is_empty()).unwrap_or("default");
    let password = claim.password.as_deref().filter(|password| !password.is_empty());
    match (user, password) {
        ("admin", Some(password)) if same(password, &credentials.admin_password) => Ok(Role::Admin),
        ("reader" | "default", Some(password)) if same(password, &credentials.reader_password) => {
            Ok(Role::Reader)
        }
        ("reader" | "default", None) if from_here => Ok(Role::Reader),
        ("reader" | "default", None) => Err(Exception::new(
            194,
            "REQUIRED_PASSWORD",
            "reader: a password is needed from another machine; it stands in credentials.toml as \
             reader_password",
        )),
        // One sentence for an unknown user and a wrong password: neither is to be guessed.
        _ => Err(failed(&format!(
            "{user}: password is incorrect, or there is no user with such name; the passwords of \
             admin and reader stand in credentials.toml"
        ))),
    }
}

/// Takes the same time wherever the difference is.
fn same(given: &str, expected: &str) -> bool {
    blake3::hash(given.as_bytes()) == blake3::hash(expected.as_bytes())
}

/// Whether the request comes from this machine and was meant for it.
pub(super) fn is_from_here(peer: SocketAddr, headers: &HeaderMap) -> bool {
    let proxied = ["forwarded", "x-forwarded-for", "x-real-ip", "via"];
    peer.ip().to_canonical().is_loopback()
        && proxied.iter().all(|name| !headers.contains_key(*name))
        && headers.get(header::HOST).is_none_or(|host| host.to_str().is_ok_and(names_this_machine))
}

fn names_this_machine(host: &str) -> bool {
    let name = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((name, _port)) => name,
        None => host.rsplit_once(':').map_or(host, |(name, _port)| name),
    };
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(user: Option<&str>, password: Option<&str>, here: bool, expected: Result<Role, u32>) {
        let credentials = Credentials { admin_password: "a".into(), reader_password: "r".into() };
        let claim = Claim { user: user.map(Into::into), password: password.map(Into::into) };
        assert_eq!(decide(&claim, &credentials, here).map_err(|error| error.code), expected);
    }

    #[test]
    fn a_password_decides_and_none_makes_a_local_reader() {
        check(Some("admin"), Some("a"), false, Ok(Role::Admin));
        check(Some("admin"), None, true, Err(516));
        check(Some("admin"), Some("r"), true, Err(516));
        check(Some("reader"), Some("r"), false, Ok(Role::Reader));
        check(None, None, true, Ok(Role::Reader));
        check(Some("default"), Some(""), true, Ok(Role::Reader));
        check(Some("default"), Some("a"), true, Err(516));
        check(None, None, false, Err(194));
        check(Some("root"), None, true, Err(516));
    }

    #[test]
    fn a_browser_page_or_a_proxy_is_not_from_here() {
        let peer = "127.0.0.1:5".parse().unwrap();
        let here = |name: &'static str, value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, http::HeaderValue::from_static(value));
            is_from_here(peer, &headers)
        };
        assert!(here("host", "localhost:8123") && here("host", "[::1]:8123"));
        assert!(here("host", "127.0.0.1") && !here("host", "rebound.example:8123"));
        assert!(!here("x-forwarded-for", "10.0.0.1"));
        assert!(!is_from_here("10.0.0.1:5".parse().unwrap(), &HeaderMap::new()));
    }
}
