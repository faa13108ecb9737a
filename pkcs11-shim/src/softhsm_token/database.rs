//! SoftHSM's database of a token (`objectstore.backend = db`): a table of objects, and one of attributes for each kind of
//! value. Object 1 is the token itself.

use std::collections::BTreeMap;
use std::path::Path;

use cryptoki_sys::CKA_ALLOWED_MECHANISMS;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags};

use super::{MAX_OBJECTS, MAX_VALUE_BYTES, Malformed, StoredObject, Value};

/// Reads all objects, by their number.
///
/// # Errors
/// What is wrong with the file, in words.
pub fn read(path: &Path) -> Result<BTreeMap<i64, StoredObject>, String> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let database = Connection::open_with_flags(path, flags).map_err(in_words)?;
    // The file may have been written by anybody: nothing in it is to be run.
    database.pragma_update(None, "trusted_schema", false).map_err(in_words)?;
    let mut objects = read_numbers(&database)?;
    for table in TABLES {
        read_attributes(&database, table, &mut objects)?;
    }
    Ok(objects)
}

fn read_numbers(database: &Connection) -> Result<BTreeMap<i64, StoredObject>, String> {
    check_table(database, "object")?;
    let mut select = database.prepare("SELECT id FROM object").map_err(in_words)?;
    let mut rows = select.query(()).map_err(in_words)?;
    let mut objects = BTreeMap::new();
    while let Some(row) = rows.next().map_err(in_words)? {
        if objects.len() == MAX_OBJECTS {
            return Err(format!("there are more than {MAX_OBJECTS} objects"));
        }
        objects.insert(row.get(0).map_err(in_words)?, StoredObject::default());
    }
    Ok(objects)
}

fn read_attributes(
    database: &Connection,
    table: &str,
    objects: &mut BTreeMap<i64, StoredObject>,
) -> Result<(), String> {
    check_table(database, table)?;
    // A value that is too long is not read at all.
    let text = format!(
        "SELECT object_id, type, CASE WHEN length(value) <= {MAX_VALUE_BYTES} THEN value END FROM {table} ORDER BY id"
    );
    let mut select = database.prepare(&text).map_err(in_words)?;
    let mut rows = select.query(()).map_err(in_words)?;
    while let Some(row) = rows.next().map_err(in_words)? {
        let Some(object) = objects.get_mut(&row.get(0).map_err(in_words)?) else { continue };
        let kind = row.get::<_, i64>(1).map_err(in_words)?.cast_unsigned();
        let value = value(table, kind, row.get_ref(2).map_err(in_words)?).ok_or_else(|| {
            format!("{table}: the value of attribute {kind:#x} is of another kind, or too long")
        })?;
        object.set(kind, value).map_err(|Malformed(reason)| reason.to_owned())?;
    }
    Ok(())
}

fn value(table: &str, kind: u64, value: ValueRef<'_>) -> Option<Value> {
    Some(match (table, value) {
        (BOOLEANS, ValueRef::Integer(value)) => Value::Bool(value != 0),
        (NUMBERS, ValueRef::Integer(value)) => Value::Ulong(value.cast_unsigned()),
        (BYTES, ValueRef::Blob(list)) if kind == CKA_ALLOWED_MECHANISMS => {
            let (list, []) = list.as_chunks::<8>() else { return None };
            Value::Mechanisms(list.iter().map(|item| u64::from_le_bytes(*item)).collect())
        }
        (BYTES, ValueRef::Blob(value)) => Value::Bytes(value.to_vec().into()),
        (TEMPLATES, ValueRef::Blob(value)) => Value::Template { empty: value.is_empty() },
        _ => return None,
    })
}

/// A view of the same name could compute for ever.
fn check_table(database: &Connection, name: &str) -> Result<(), String> {
    let select =
        "SELECT count(*) FROM sqlite_schema WHERE name = ? AND type = 'table' AND sql LIKE 'CREATE TABLE %'";
    match database.query_row(select, [name], |row| row.get(0)).map_err(in_words)? {
        1 => Ok(()),
        _ => Err(format!("there is no table {name}")),
    }
}

fn in_words(error: rusqlite::Error) -> String {
    error.to_string()
}

const BOOLEANS: &str = "attribute_boolean";
const NUMBERS: &str = "attribute_integer";
const BYTES: &str = "attribute_binary";
const TEMPLATES: &str = "attribute_array";
const TABLES: [&str; 4] = [BOOLEANS, NUMBERS, BYTES, TEMPLATES];

#[cfg(test)]
mod tests {
    use cryptoki_sys::*;

    use super::*;

    fn database(more: &str) -> (tempfile::TempDir, Result<BTreeMap<i64, StoredObject>, String>) {
        let dir = tempfile::tempdir().expect("directory");
        let path = dir.path().join("sqlite3.db");
        let database = Connection::open(&path).expect("made");
        let tables = "
            CREATE TABLE object (id integer primary key autoincrement);
            CREATE TABLE attribute_boolean (value boolean, type integer, object_id integer, id integer primary key);
            CREATE TABLE attribute_integer (value integer, type integer, object_id integer, id integer primary key);
            CREATE TABLE attribute_binary (value blob, type integer, object_id integer, id integer primary key);
            CREATE TABLE attribute_array (value blob, type integer, object_id integer, id integer primary key);
            INSERT INTO object VALUES (2);";
        database.execute_batch(&format!("{tables}{more}")).expect("filled");
        drop(database);
        let read = read(&path);
        (dir, read)
    }

    #[test]
    fn objects_have_the_attributes_of_all_tables() {
        let (_dir, read) = database(
            "INSERT INTO attribute_boolean VALUES (1, 1, 2, NULL);
             INSERT INTO attribute_integer VALUES (4, 0, 2, NULL), (-1, 358, 2, NULL), (0, 0, 9, NULL);
             INSERT INTO attribute_binary VALUES (x'616263', 3, 2, NULL), (x'0500000000000000', 1073743360, 2, NULL);
             INSERT INTO attribute_array VALUES (x'', 1073742353, 2, NULL);",
        );
        let objects = read.expect("read");
        assert_eq!(objects.len(), 1, "attributes of no object are left out");
        let object = &objects[&2];
        assert_eq!(object.bool(CKA_TOKEN), Some(true));
        assert_eq!(object.ulong(CKA_CLASS), Some(CKO_SECRET_KEY));
        assert_eq!(object.ulong(CKA_KEY_GEN_MECHANISM), Some(CK_UNAVAILABLE_INFORMATION));
        assert_eq!(object.bytes(CKA_LABEL), Some(&b"abc"[..]));
        assert_eq!(object.0.len(), 6);
    }

    #[test]
    fn what_is_not_softhsms_is_refused() {
        let hostile = [
            "INSERT INTO attribute_boolean VALUES ('yes', 1, 2, NULL);",
            "INSERT INTO attribute_binary VALUES (zeroblob(2000000), 3, 2, NULL);",
            "INSERT INTO attribute_binary VALUES (x'05', 1073743360, 2, NULL);",
            "DROP TABLE attribute_array; CREATE VIEW attribute_array AS SELECT x'' value, 1 type, 2 object_id, 1 id;",
            "DROP TABLE object;",
        ];
        for more in hostile {
            assert!(database(more).1.is_err(), "{more}");
        }
        let dir = tempfile::tempdir().expect("directory");
        let path = dir.path().join("sqlite3.db");
        std::fs::write(&path, b"no database at all").expect("written");
        assert!(read(&path).is_err());
    }
}
