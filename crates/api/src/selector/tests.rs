//! Golden: what apimachinery makes of our own texts: label selectors, field selectors and quantities.

use super::{field, label};
use crate::quantity::Quantity;
use crate::value::{Value, parse};

/// One text a line: what it is, and either upstream's error or what upstream makes of it.
const GOLDEN: &str = include_str!("../../testdata/small_languages.jsonl");

fn check(case: &Value, ours: &Result<String, String>, wrong: &mut Vec<String>) {
    let theirs = match (case.str_at(&["error"]), case.str_at(&["text"])) {
        (Some(error), _) => Err(error.to_owned()),
        (None, text) => Ok(text.unwrap_or_default().to_owned()),
    };
    if *ours != theirs {
        wrong.push(format!("{case}\nours {ours:?}"));
    }
}

#[test]
fn texts_are_read_and_refused_as_upstream() {
    let mut wrong = Vec::new();
    for line in GOLDEN.lines() {
        let case = parse(line.as_bytes()).unwrap();
        if let Some(text) = case.str_at(&["labels"]) {
            let ours = label::Selector::parse(text).map(|s| s.to_string()).map_err(|error| error.0);
            check(&case, &ours, &mut wrong);
        } else if let Some(text) = case.str_at(&["fields"]) {
            let ours = field::Selector::parse(text).map(|s| s.to_string()).map_err(|error| error.0);
            check(&case, &ours, &mut wrong);
        } else if let Some(text) = case.str_at(&["quantity"]) {
            let ours = Quantity::parse(text);
            let shown = ours.as_ref().map(ToString::to_string).map_err(ToString::to_string);
            check(&case, &shown, &mut wrong);
            amounts(&case, ours.ok(), &mut wrong);
        }
    }
    assert!(wrong.is_empty(), "{} differ\n{}", wrong.len(), wrong.join("\n"));
}

fn amounts(case: &Value, quantity: Option<Quantity>, wrong: &mut Vec<String>) {
    let (Some(quantity), Some(value)) = (quantity, case.int_at(&["value"])) else { return };
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for (own, their) in
        [(quantity.value(), value), (quantity.milli_value(), case.int_at(&["milli"]).unwrap())]
    {
        // Where an amount does not fit upstream wraps around, and it rounds some below zero the wrong way; we do not.
        if !quantity.is_negative() && own != i64::MAX {
            ours.push(own.to_string());
            theirs.push(their.to_string());
        }
    }
    if let Some(other) = case.str_at(&["other"]) {
        let other = Quantity::parse(other).unwrap();
        let mut sum = quantity.clone();
        sum.add(&other);
        ours.extend([(quantity.cmp(&other) as i8).to_string(), sum.to_string()]);
        let sum = case.str_at(&["sum"]).unwrap().to_owned();
        theirs.extend([case.int_at(&["compare"]).unwrap().to_string(), sum]);
    }
    if ours != theirs {
        wrong.push(format!("{case}\nours {ours:?}"));
    }
}
