use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::units::Span;

fn school(name: &str) -> SchoolId {
    SchoolId::parse(name).unwrap()
}

fn at(ms: i64) -> Timestamp {
    Timestamp::from_ms(ms)
}

fn store() -> (tempfile::TempDir, KeyStore) {
    let folder = tempfile::tempdir().unwrap();
    let store = KeyStore::open(folder.path().join("keys.toml")).unwrap();
    (folder, store)
}

#[test]
fn a_new_key_opens_its_school_and_is_stored_hashed() {
    let (_folder, store) = store();
    let (key, info) = store.create(&school("lincoln"), &[Scope::EventsWrite], at(5)).unwrap();
    let credential = store.authenticate(key.reveal(), at(9)).unwrap();
    assert_eq!(credential.school_id, school("lincoln"));
    assert!(credential.may_write() && !credential.may_backfill());
    assert_eq!(store.list(), std::slice::from_ref(&info));
    assert!(key.reveal().starts_with(&info.key_id));
    assert_eq!(key.reveal().len(), 68);

    let text = std::fs::read_to_string(store.path().unwrap()).unwrap();
    assert!(!text.contains(key.reveal().strip_prefix("csk_").unwrap()));
    assert!(!format!("{key:?} {store:?}").contains(key.reveal()));
    let mode = std::fs::metadata(store.path().unwrap()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(store.authenticate("csk_0", at(9)), Err(AuthError::Unknown));
    assert_eq!(store.authenticate("", at(9)), Err(AuthError::Unknown));
}

#[test]
fn another_process_sees_what_one_changed() {
    let (_folder, server) = store();
    let command = KeyStore::open(server.path().unwrap()).unwrap();
    let (key, info) = command.create(&school("a"), &[Scope::EventsBackfill], at(1)).unwrap();
    assert_eq!(server.authenticate(key.reveal(), at(9)), Err(AuthError::Unknown));
    assert!(server.reload().unwrap());
    let credential = server.authenticate(key.reveal(), at(9)).unwrap();
    assert!(credential.may_write() && credential.may_backfill());

    assert_eq!(command.revoke(&info.key_id, at(2)).unwrap().revoked_at, Some(at(2)));
    assert_eq!(command.revoke(&info.key_id, at(3)).unwrap().revoked_at, Some(at(2)));
    assert!(server.reload().unwrap());
    assert!(!server.reload().unwrap());
    let error = server.authenticate(key.reveal(), at(9)).unwrap_err();
    assert!(matches!(error, AuthError::Revoked { .. }));
    assert!(!error.to_string().contains(key.reveal()));
    assert!(matches!(command.revoke("csk_none", at(4)), Err(KeyError::NoSuchKey { .. })));
}

#[test]
fn writers_at_the_same_time_lose_no_key() {
    let (_folder, server) = store();
    std::thread::scope(|scope| {
        for writer in 0..8 {
            let path = server.path().unwrap();
            scope.spawn(move || {
                let store = KeyStore::open(path).unwrap();
                for _ in 0..5 {
                    let school = school(&format!("school-{writer}"));
                    store.create(&school, &[Scope::EventsWrite], at(1)).unwrap();
                }
            });
        }
    });
    server.reload().unwrap();
    assert_eq!(server.list().len(), 40);
}

#[test]
fn a_broken_file_is_an_error_that_keeps_the_known_keys() {
    let (_folder, store) = store();
    let (key, _info) = store.create(&school("a"), &[Scope::EventsWrite], at(1)).unwrap();
    let good = std::fs::read_to_string(store.path().unwrap()).unwrap();
    for bad in [
        "format = ".to_owned(),
        "format = 2".to_owned(),
        good.replace("events:write", "events:fly"),
        good.replace("sha256 = \"", "sha256 = \"zz"),
        good.replace("created_at = \"", "created_at = \"x"),
        format!("{good}surprise = 1\n"),
    ] {
        std::fs::write(store.path().unwrap(), &bad).unwrap();
        let error = store.reload().unwrap_err();
        assert!(error.to_string().contains("keys.toml"), "{error}");
        assert!(error.hint().contains("keys create"));
        assert!(store.authenticate(key.reveal(), at(9)).is_ok());
        assert!(store.create(&school("a"), &[Scope::EventsWrite], at(1)).is_err());
    }
}

#[test]
fn a_missing_folder_is_named() {
    let store = KeyStore::open("/nonexistent/chalkstream/keys.toml").unwrap();
    let error = store.create(&school("a"), &[Scope::EventsWrite], at(1)).unwrap_err();
    assert!(error.to_string().contains("/nonexistent/chalkstream"), "{error}");
    assert!(error.hint().contains("data folder"));
}

fn vendor() -> Grant {
    let mut grant = Grant::new(school("b"), &[Scope::EventsWrite]);
    grant.also_schools = vec![school("c"), school("a"), school("b"), school("c")];
    grant.app = Some("whiteboard".to_owned());
    grant.max_age = Some("30d".parse().unwrap());
    grant.max_future = Some("1m".parse().unwrap());
    grant
}

#[test]
fn every_right_survives_the_file() {
    let (_folder, store) = store();
    let mut public = Grant::new(school("a"), &[Scope::EventsWrite]);
    public.publishable = true;
    public.origins = vec!["https://app.example".to_owned()];
    let mut learner = Grant::new(school("a"), &[Scope::EventsLearner, Scope::EventsBackfill]);
    learner.learner = Some("ada".parse().unwrap());
    let made = [vendor(), public, learner]
        .map(|grant| store.issue(grant, Some(at(100)), at(1)).unwrap())
        .map(|(key, info)| (key, info.clone()));
    let again = KeyStore::open(store.path().unwrap()).unwrap();
    assert_eq!(again.list(), made.each_ref().map(|(_, info)| info.clone()));
    let [vendor, public, learner] =
        made.map(|(key, _)| again.authenticate(key.reveal(), at(2)).unwrap());
    assert_eq!(vendor.schools().map(SchoolId::as_str).collect::<Vec<_>>(), ["b", "a", "c"]);
    assert_eq!(vendor.app.as_deref(), Some("whiteboard"));
    assert_eq!(vendor.max_age(Duration::MAX), Some(Duration::from_secs(30 * 86_400)));
    assert_eq!(vendor.max_future, Some(Duration::from_secs(60)));
    assert!(public.publishable && public.origins.len() == 1 && !vendor.publishable);
    assert!(learner.may_send_for("ada"));
    assert!(!learner.may_send_for("bob"));
    assert_eq!(learner.max_age(Duration::MAX), None);
}

#[test]
fn a_file_of_an_earlier_version_is_read() {
    let (_folder, store) = store();
    let sha256 = hex::encode(hash("csk_old"));
    let text = format!(
        "format = 1\n\n[[keys]]\nkey_id = \"csk_old\"\nsha256 = \"{sha256}\"\nschool_id = \"a\"\n\
         scopes = [\"events:write\"]\ncreated_at = \"2026-01-01T00:00:00.000Z\"\n"
    );
    std::fs::write(store.path().unwrap(), text).unwrap();
    store.reload().unwrap();
    let credential = store.authenticate("csk_old", at(1)).unwrap();
    assert_eq!(*credential, Credential::new("csk_old", school("a"), vec![Scope::EventsWrite]));
}

#[test]
fn rights_that_contradict_each_other_are_refused_with_what_to_do() {
    #[track_caller]
    fn check(change: impl FnOnce(&mut Grant), part: &str) {
        let (_folder, store) = store();
        let mut grant = Grant::new(school("a"), &[Scope::EventsWrite]);
        change(&mut grant);
        let error = store.issue(grant, None, at(1)).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
        assert!(store.list().is_empty());
    }
    check(|grant| grant.scopes = vec![Scope::EventsLearner], "must name its learner");
    check(|grant| grant.learner = Some("ada".parse().unwrap()), "events:learner");
    let public = |grant: &mut Grant| grant.publishable = true;
    check(
        |grant| {
            public(grant);
            grant.scopes.push(Scope::EventsBackfill);
        },
        "`events:write` alone",
    );
    check(
        |grant| {
            public(grant);
            grant.also_schools.push(school("b"));
        },
        "one school alone",
    );
    check(|grant| grant.origins.push("https://app.example".to_owned()), "only publishable");
    for (origin, part) in [
        ("https://app.example/", "write `https://app.example`"),
        ("https://App.example:443", "write `https://app.example`"),
        ("app.example", "no web origin"),
        ("*", "no web origin"),
        ("null", "no web origin"),
    ] {
        check(
            |grant| {
                public(grant);
                grant.origins.push(origin.to_owned());
            },
            part,
        );
    }
    check(
        |grant| {
            grant.scopes.push(Scope::EventsBackfill);
            grant.max_age = Some(Span::days(1));
        },
        "any age",
    );
    for app in ["", "a\u{7}", &"a".repeat(129)] {
        check(|grant| grant.app = Some(app.to_owned()), "an app's name");
    }
    let (_folder, store) = store();
    let grant = Grant::new(school("a"), &[Scope::EventsWrite]);
    assert!(store.issue(grant, Some(at(5)), at(5)).is_err());
}

#[test]
fn a_rotated_key_overlaps_with_its_successor_and_then_ends() {
    let (_folder, store) = store();
    let (old, info) = store.issue(vendor(), Some(at(1_000)), at(0)).unwrap();
    let overlap = Duration::from_millis(100);
    let (new, next) = store.rotate(&info.key_id, overlap, at(500)).unwrap();
    assert_eq!(next.grant, info.grant);
    assert_eq!(next.expires_at, Some(at(1_500)));
    let listed = store.list().remove(0);
    assert_eq!(listed.rotated.as_ref().unwrap().successor, next.key_id);
    assert_eq!(listed.state(at(599)), KeyState::Rotating { until: at(600) });
    assert_eq!(listed.state(at(599)).to_string(), "rotating until 1970-01-01T00:00:00.600Z");
    assert_eq!(listed.state(at(600)), KeyState::Expired { at: at(600) });
    assert_eq!(store.valid(at(599)), 2);
    assert_eq!(store.valid(at(600)), 1);
    assert!(store.authenticate(old.reveal(), at(599)).is_ok());
    let ended = AuthError::Expired { key_id: info.key_id.as_str().into(), expired_at: at(600) };
    assert_eq!(store.authenticate(old.reveal(), at(600)), Err(ended));
    assert!(store.authenticate(new.reveal(), at(600)).is_ok());

    for (key_id, now, part) in [
        (&info.key_id, at(550), "rotating until"),
        (&info.key_id, at(700), "expired"),
        (&next.key_id, at(1_500), "expired"),
    ] {
        let error = store.rotate(key_id, overlap, now).unwrap_err();
        assert!(error.to_string().contains(part), "{error}");
        assert!(error.hint().contains("keys create"));
    }
    store.revoke(&next.key_id, at(800)).unwrap();
    assert!(
        store.rotate(&next.key_id, overlap, at(801)).unwrap_err().to_string().contains("revoked")
    );
    assert!(matches!(store.rotate("csk_none", overlap, at(801)), Err(KeyError::NoSuchKey { .. })));
    // A revocation ends the overlap, too.
    store.revoke(&info.key_id, at(550)).unwrap();
    let error = store.authenticate(old.reveal(), at(560)).unwrap_err();
    assert!(matches!(error, AuthError::Revoked { .. }));
    assert_eq!(store.list().len(), 2, "what failed made no key");
}

#[test]
fn a_key_never_outlives_its_end_by_being_rotated() {
    let (_folder, store) = store();
    let grant = Grant::new(school("a"), &[Scope::EventsWrite]);
    let (old, info) = store.issue(grant, Some(at(1_000)), at(0)).unwrap();
    store.rotate(&info.key_id, Duration::from_secs(60), at(900)).unwrap();
    assert!(store.authenticate(old.reveal(), at(999)).is_ok());
    assert!(store.authenticate(old.reveal(), at(1_000)).is_err());
}

/// Neither takes a key away until a valid file is there again.
#[test]
fn a_key_file_that_is_gone_or_cut_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys.toml");
    let store = KeyStore::open(&path).unwrap();
    let now = Timestamp::from_ms(1_000);
    let school = SchoolId::parse("lincoln").unwrap();
    let keys = [(); 3].map(|()| store.create(&school, &[Scope::EventsWrite], now).unwrap().0);
    let whole = std::fs::read_to_string(&path).unwrap();
    let all_known = || keys.iter().all(|key| store.authenticate(key.reveal(), now).is_ok());

    // Wherever it is cut: between two keys as well, where what is left is valid by itself.
    let tables = whole.match_indices("\n[[keys]]").map(|(at, _)| at + 1);
    for at in tables.chain([0, 10, whole.len() / 2, whole.len() - 3]) {
        std::fs::write(&path, whole.get(..at).unwrap()).unwrap();
        assert!(store.reload().is_err(), "cut at {at}");
        assert!(all_known(), "cut at {at}");
    }
    std::fs::remove_file(&path).unwrap();
    assert!(matches!(store.reload(), Err(KeyError::Gone { .. })));
    let refused = store.create(&school, &[Scope::EventsWrite], now);
    assert!(matches!(refused, Err(KeyError::Gone { .. })));
    assert!(all_known() && std::fs::metadata(&path).is_err());

    std::fs::write(&path, &whole).unwrap();
    store.reload().unwrap();
    let (_key, another) = store.create(&school, &[Scope::EventsWrite], now).unwrap();
    assert!(all_known() && store.list().contains(&another));
    // What an earlier version wrote has no count.
    let older = whole.lines().filter(|line| !line.starts_with("count")).collect::<Vec<_>>();
    std::fs::write(&path, older.join("\n")).unwrap();
    store.reload().unwrap();
    assert_eq!(store.list().len(), 3);
}
