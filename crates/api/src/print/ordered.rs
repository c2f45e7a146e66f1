//! Objects as messages show them: JSON with members in the order of upstream's structs. Our own trees are sorted by
//! name, and so is all that is stored or sent.

use crate::table::{Shape, TypeId, Types, types};
use crate::value::{Value, write_string};

/// The JSON of a list of structs.
pub fn list(ty: TypeId, values: &[Value]) -> String {
    let items: Vec<String> = values.iter().map(|value| written(ty, value, None)).collect();
    format!("[{}]", items.join(","))
}

/// The JSON of what a patch made of an object. Upstream reads no deeper than the patch reaches: objects that it went
/// through have their members sorted, all others keep the order of their structs. `touched` has an object where the
/// patch went through one.
pub fn patched(ty: TypeId, value: &Value, touched: &Value) -> String {
    written(ty, value, Some(touched))
}

fn written(ty: TypeId, value: &Value, touched: Option<&Value>) -> String {
    let mut out = Vec::new();
    write(types(), Some(Shape::Struct(ty)), value, touched, &mut out);
    String::from_utf8(out).unwrap_or_default()
}

fn write(types: &Types, shape: Option<Shape>, value: &Value, touched: Option<&Value>, out: &mut Vec<u8>) {
    match (value, shape) {
        (Value::Object(map), Some(Shape::Struct(ty))) => {
            let ty = types.get(ty);
            let mut members: Vec<_> = map.iter().collect();
            if touched.and_then(Value::as_object).is_none() {
                members.sort_by_key(|(name, _)| ty.field_index(name).unwrap_or(usize::MAX));
            }
            object(&members, out, |name, value, out| {
                let inner = ty.field(name).map(|field| types.bare(field.shape));
                write(types, inner, value, touched.and_then(|touched| touched.get(name)), out);
            });
        }
        (Value::Object(map), Some(Shape::Map(_, element))) => {
            let members: Vec<_> = map.iter().collect();
            object(&members, out, |_, value, out| write(types, Some(types.bare(element)), value, None, out));
        }
        (Value::Array(items), Some(Shape::List(element))) => {
            out.push(b'[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                write(types, Some(types.bare(element)), item, None, out);
            }
            out.push(b']');
        }
        _ => value.write_to(out),
    }
}

fn object<K: AsRef<str>>(
    members: &[(K, &Value)],
    out: &mut Vec<u8>,
    mut write: impl FnMut(&str, &Value, &mut Vec<u8>),
) {
    out.push(b'{');
    for (index, (name, value)) in members.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write_string(name.as_ref(), out);
        out.push(b':');
        write(name.as_ref(), value, out);
    }
    out.push(b'}');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json;

    fn check(touched: Option<Value>, expect: &str) {
        let map = types().of_kind("", "v1", "ConfigMap").unwrap();
        let value = json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"b": "1", "a": "2"}, "nope": 1,
            "metadata": {"uid": "u", "name": "n", "ownerReferences": [{"name": "o", "kind": "K", "uid": "v"}]}});
        let got = written(map, &value, touched.as_ref());
        assert_eq!(got, expect);
    }

    #[test]
    fn members_stand_as_in_the_struct_but_where_a_patch_went() {
        let owner = r#"{"kind":"K","name":"o","uid":"v"}"#;
        let data = r#"{"a":"2","b":"1"}"#;
        check(
            None,
            &format!(
                r#"{{"kind":"ConfigMap","apiVersion":"v1","metadata":{{"name":"n","uid":"u","ownerReferences":[{owner}]}},"data":{data},"nope":1}}"#
            ),
        );
        check(
            Some(json!({"data": {}})),
            &format!(
                r#"{{"apiVersion":"v1","data":{data},"kind":"ConfigMap","metadata":{{"name":"n","uid":"u","ownerReferences":[{owner}]}},"nope":1}}"#
            ),
        );
        check(
            Some(json!({"metadata": {}})),
            &format!(
                r#"{{"apiVersion":"v1","data":{data},"kind":"ConfigMap","metadata":{{"name":"n","ownerReferences":[{owner}],"uid":"u"}},"nope":1}}"#
            ),
        );
    }
}
