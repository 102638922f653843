//! The engine's configuration: what each role may do, in ClickHouse's own grants.
//!
//! libchdb knows one user, `default`, but honours roles. Every connection begins with both roles;
//! a reader's connection then takes `chalkstream_reader` alone, and its statements, which the
//! guard admits one by one, cannot take the other back. Neither role is granted a source: `file`,
//! `url`, `s3` and their like are refused for everybody.

use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};

use crate::credentials::write_private;

pub(crate) const READER_ROLE: &str = "chalkstream_reader";
const ADMIN_ROLE: &str = "chalkstream_admin";

/// Tables of `system` and `information_schema` that readers' clients ask on connect. Their rows
/// are limited by grants to what the reader may see.
pub(crate) const SYSTEM_TABLES: &[&str] = &[
    "system.one",
    "system.numbers",
    "system.settings",
    "system.databases",
    "system.tables",
    "system.columns",
    "system.functions",
    "system.keywords",
    "system.data_type_families",
    "system.time_zones",
    "information_schema.schemata",
    "information_schema.tables",
    "information_schema.views",
    "information_schema.columns",
];

/// Whether a name can stand in a grant without quotes.
pub(crate) fn is_view_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 128
        && name
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
}

/// Writes the two files into the engine's folder and returns the path of the first.
pub(super) fn write(folder: &Path, views: &[String]) -> Result<PathBuf, (PathBuf, io::Error)> {
    let config = folder.join("chalkstream-config.xml");
    let users = folder.join("chalkstream-users.xml");
    write_private(&users, users_xml(views).as_bytes()).map_err(|error| (users.clone(), error))?;
    write_private(&config, config_xml(&users).as_bytes())
        .map_err(|error| (config.clone(), error))?;
    Ok(config)
}

fn config_xml(users: &Path) -> String {
    let users = users.display().to_string().replace('&', "&amp;").replace('<', "&lt;");
    format!(
        "<clickhouse>\n\
         <users_config>{users}</users_config>\n\
         <display_name>chalkstream</display_name>\n\
         <logger><level>none</level></logger>\n\
         <ignore_empty_sql_security_in_create_view_query>0\
         </ignore_empty_sql_security_in_create_view_query>\n\
         </clickhouse>\n"
    )
}

/// Reading `skill_id.size` instead of `skill_id` is off: of a view over FINAL, ClickHouse 26.5 then
/// refuses `WHERE skill_id != ''` with UNKNOWN_IDENTIFIER.
fn users_xml(views: &[String]) -> String {
    let mut reader = String::new();
    let tables = SYSTEM_TABLES.iter().copied().map(str::to_owned);
    let views = views.iter().filter(|view| is_view_name(view)).map(|v| format!("chalkstream.{v}"));
    for table in tables.chain(views) {
        // Writing to a String does not fail.
        if writeln!(reader, "<query>GRANT SELECT ON {table}</query>").is_err() {
            continue;
        }
    }
    format!(
        "<clickhouse>\n\
         <profiles><default>\
         <default_normal_view_sql_security>DEFINER</default_normal_view_sql_security>\
         <default_view_definer>CURRENT_USER</default_view_definer>\
         <optimize_functions_to_subcolumns>0</optimize_functions_to_subcolumns>\
         </default></profiles>\n\
         <roles>\n\
         <{ADMIN_ROLE}><grants>\n\
         <query>GRANT SELECT, INSERT, ALTER, CREATE, DROP, TRUNCATE, OPTIMIZE, SHOW, CHECK, KILL \
         QUERY, SYSTEM MERGES, SYSTEM TTL MERGES, SYSTEM FLUSH, dictGet ON *.*</query>\n\
         <query>GRANT TABLE ENGINE ON *</query>\n\
         <query>REVOKE CREATE FUNCTION, CREATE NAMED COLLECTION, CREATE DICTIONARY ON *.*</query>\n\
         </grants></{ADMIN_ROLE}>\n\
         <{READER_ROLE}><grants>\n{reader}</grants></{READER_ROLE}>\n\
         </roles>\n\
         <users><default><password></password><networks><ip>::/0</ip></networks>\
         <profile>default</profile><quota>default</quota><grants>\
         <query>GRANT {ADMIN_ROLE}</query><query>GRANT {READER_ROLE}</query>\
         </grants></default></users>\n\
         <quotas><default/></quotas>\n\
         </clickhouse>\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_is_granted_the_views_and_no_odd_names() {
        let xml = users_xml(&["events".to_owned(), "x TO y</query>".to_owned()]);
        assert!(xml.contains("GRANT SELECT ON chalkstream.events</query>"));
        assert!(!xml.contains("x TO y"));
        let reader = xml.split_once("<chalkstream_reader>").unwrap().1;
        assert!(!reader.split_once("</chalkstream_reader>").unwrap().0.contains("INSERT"));
    }
}
