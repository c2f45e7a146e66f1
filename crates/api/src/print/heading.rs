//! What the columns of tables say of themselves.

use std::collections::HashMap;
use std::sync::OnceLock;

use crate::schema::descriptions::{Descriptions, unpack};
use crate::table::{Column, kinds, types};

/// The description of a column: that of the field that it shows, or nothing where upstream has words of its own, for
/// those are prose of its printers and in no dependency.
///
/// The words of all columns (some 20 KB) are kept from the first table on; unpacking them for each would cost it
/// milliseconds.
pub(super) fn description(column: &Column) -> &'static str {
    static WORDS: OnceLock<HashMap<&'static str, Box<str>>> = OnceLock::new();
    WORDS.get_or_init(words).get(column.field).map_or("", |words| words)
}

fn words() -> HashMap<&'static str, Box<str>> {
    let text = unpack();
    let all = Descriptions::read(&text);
    let columns = kinds().iter().flat_map(|kind| &kind.columns);
    let found = columns.filter_map(|column| {
        let (ty, field) = column.field.rsplit_once('.')?;
        let name = types().openapi_name(types().get(types().find(ty)?));
        Some((column.field, all.of(&name, field)?.into()))
    });
    found.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_column_that_shows_a_field_has_its_words() {
        for column in kinds().iter().flat_map(|kind| &kind.columns) {
            assert_eq!(description(column).is_empty(), column.field.is_empty(), "{}", column.field);
        }
    }
}
