use std::os::unix::fs::PermissionsExt;

use super::*;

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
    let credential = store.authenticate(key.reveal()).unwrap();
    assert_eq!(credential.school_id, school("lincoln"));
    assert!(credential.may_write() && !credential.may_backfill());
    assert_eq!(store.list(), std::slice::from_ref(&info));
    assert!(key.reveal().starts_with(&info.key_id));
    assert_eq!(key.reveal().len(), 68);

    let text = std::fs::read_to_string(store.path()).unwrap();
    assert!(!text.contains(key.reveal().strip_prefix("csk_").unwrap()));
    assert!(!format!("{key:?} {store:?}").contains(key.reveal()));
    let mode = std::fs::metadata(store.path()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(store.authenticate("csk_0"), Err(AuthError::Unknown));
    assert_eq!(store.authenticate(""), Err(AuthError::Unknown));
}

#[test]
fn another_process_sees_what_one_changed() {
    let (_folder, server) = store();
    let command = KeyStore::open(server.path()).unwrap();
    let (key, info) = command.create(&school("a"), &[Scope::EventsBackfill], at(1)).unwrap();
    assert_eq!(server.authenticate(key.reveal()), Err(AuthError::Unknown));
    assert!(server.reload().unwrap());
    let credential = server.authenticate(key.reveal()).unwrap();
    assert!(credential.may_write() && credential.may_backfill());

    assert_eq!(command.revoke(&info.key_id, at(2)).unwrap().revoked_at, Some(at(2)));
    assert_eq!(command.revoke(&info.key_id, at(3)).unwrap().revoked_at, Some(at(2)));
    assert!(server.reload().unwrap());
    assert!(!server.reload().unwrap());
    let error = server.authenticate(key.reveal()).unwrap_err();
    assert!(matches!(error, AuthError::Revoked { .. }));
    assert!(!error.to_string().contains(key.reveal()));
    assert!(matches!(command.revoke("csk_none", at(4)), Err(KeyError::NoSuchKey { .. })));
}

#[test]
fn writers_at_the_same_time_lose_no_key() {
    let (_folder, server) = store();
    std::thread::scope(|scope| {
        for writer in 0..8 {
            let path = server.path();
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
    let good = std::fs::read_to_string(store.path()).unwrap();
    for bad in [
        "format = ".to_owned(),
        "format = 2".to_owned(),
        good.replace("events:write", "events:fly"),
        good.replace("sha256 = \"", "sha256 = \"zz"),
        good.replace("created_at = \"", "created_at = \"x"),
        format!("{good}surprise = 1\n"),
    ] {
        std::fs::write(store.path(), &bad).unwrap();
        let error = store.reload().unwrap_err();
        assert!(error.to_string().contains("keys.toml"), "{error}");
        assert!(error.hint().contains("keys create"));
        assert!(store.authenticate(key.reveal()).is_ok());
        assert!(store.create(&school("a"), &[Scope::EventsWrite], at(1)).is_err());
    }
    std::fs::remove_file(store.path()).unwrap();
    store.reload().unwrap();
    assert_eq!(store.authenticate(key.reveal()), Err(AuthError::Unknown));
}

#[test]
fn a_missing_folder_is_named() {
    let store = KeyStore::open("/nonexistent/chalkstream/keys.toml").unwrap();
    let error = store.create(&school("a"), &[Scope::EventsWrite], at(1)).unwrap_err();
    assert!(error.to_string().contains("/nonexistent/chalkstream"), "{error}");
    assert!(error.hint().contains("data folder"));
}
