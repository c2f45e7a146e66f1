//! The user's script (tests/first-light.sh): run in its forms, and compared with its ledger (tests/first-light.points).

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::command::{self, command};
use crate::project::Project;

/// How the house can stand (tests/first-light/forms): `ondol up`, or `ondol server` and `ondol agent` apart.
pub const FORMS: [&str; 2] = ["together", "apart"];

/// What of the script runs with the form apart in the default tests: images, a Deployment, Services, streams through
/// the agent's port, and the ways down. The suite `first-light` runs everything.
const APART_USUALLY: [&str; 6] = ["2", "3", "4", "10", "last", "split"];

/// How much of the script runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// All of it as `ondol up`, and of server and agent apart what shows that they are.
    Usual,
    /// All of it in every form.
    Whole,
}

/// One point of the script in one form.
pub struct Point {
    /// With its form: `3.scale (apart)`.
    pub name: String,
    /// Whether the ledger says that it passes.
    pub required: bool,
    /// `None` if the script ended before it came to it.
    pub passed: Option<bool>,
}

/// Runs the script in every form with the `ondol` of a profile; every point that the ledger requires must pass.
pub fn run(project: &Project, profile: &str, kubectl: &Path, extent: Extent) -> Result<Vec<Point>> {
    let ondol = project.binary(profile, "ondol");
    if !ondol.exists() {
        bail!("cargo built no {}", ondol.display());
    }
    let ledger = project.root().join("tests/first-light.points");
    let ledger = fs::read_to_string(&ledger).with_context(|| format!("reading {}", ledger.display()))?;
    let lines = ledger_lines(&ledger)?;
    let mut points = Vec::new();
    for form in FORMS {
        let groups: &[&str] = match (form, extent) {
            ("apart", Extent::Usual) => &APART_USUALLY,
            _ => &[],
        };
        let mut bash = command("bash", [project.root().join("tests/first-light.sh")]);
        bash.args(groups);
        bash.env("ONDOL", &ondol).env("KUBECTL", kubectl).env("FIRST_LIGHT_FORM", form);
        let mut seen = Points::default();
        eprintln!("\nthe user's script, {form}:");
        command::follow(&mut bash, |line| seen.hear(line))?;
        points.extend(compare(form, groups, &lines, &seen)?);
    }
    Ok(points)
}

/// What was seen in one form, beside what the ledger has for it. Of `groups` of points, none means all; the first one
/// always runs.
fn compare(form: &str, groups: &[&str], ledger: &[Line], seen: &Points) -> Result<Vec<Point>> {
    let mut points: BTreeMap<&str, Point> = BTreeMap::new();
    let runs = |line: &&Line| {
        let group = line.name.split('.').next().unwrap_or_default();
        let in_form = line.form.as_deref().is_none_or(|only| only == form);
        in_form && (groups.is_empty() || group == "1" || groups.contains(&group))
    };
    for line in ledger.iter().filter(runs) {
        let name = format!("{} ({form})", line.name);
        points.insert(&line.name, Point { name, required: line.required, passed: None });
    }
    for (name, passed) in &seen.0 {
        match points.get_mut(name.as_str()) {
            Some(point) => point.passed = Some(*passed),
            None => bail!("tests/first-light.points does not list the point {name} for the form \"{form}\""),
        }
    }
    Ok(points.into_values().collect())
}

/// What a script has said so far: of each of its points whether it passed.
#[derive(Default)]
pub struct Points(pub BTreeMap<String, bool>);

impl Points {
    /// Takes in a line. A point that is checked twice passes only if it passes every time.
    pub fn hear(&mut self, line: &str) {
        if let Some((name, passed)) = point_line(line) {
            self.0.entry(name.to_owned()).and_modify(|before| *before &= passed).or_insert(passed);
        }
    }
}

/// A line of a script about a point: `PASS name` or `FAIL name: reason`.
fn point_line(line: &str) -> Option<(&str, bool)> {
    let (rest, passed) = match line.strip_prefix("PASS ") {
        Some(rest) => (rest, true),
        None => (line.strip_prefix("FAIL ")?, false),
    };
    Some((rest.split([':', ' ']).next()?, passed))
}

/// A line of the ledger.
#[derive(Debug, PartialEq, Eq)]
struct Line {
    name: String,
    required: bool,
    /// The only form that has the point.
    form: Option<String>,
}

/// Lines of the ledger: `required NAME` or `open NAME`, with ` in FORM` where only one has it; `#` begins a comment.
fn ledger_lines(text: &str) -> Result<Vec<Line>> {
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or("").trim());
    lines
        .filter(|line| !line.is_empty())
        .map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let (required, name, form) = match words[..] {
                ["required", name] => (true, name, None),
                ["open", name] => (false, name, None),
                ["required", name, "in", form] if FORMS.contains(&form) => (true, name, Some(form)),
                ["open", name, "in", form] if FORMS.contains(&form) => (false, name, Some(form)),
                _ => bail!(
                    "tests/first-light.points: \"{line}\" is neither \"required NAME\" nor \"open NAME\", with \
                     \" in FORM\" behind it for one of {FORMS:?}"
                ),
            };
            Ok(Line { name: name.to_owned(), required, form: form.map(str::to_owned) })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_are_read_from_the_script_and_the_ledger() {
        assert_eq!(point_line("PASS 3.scale"), Some(("3.scale", true)));
        assert_eq!(point_line("FAIL 3.scale: two pods after 50 s"), Some(("3.scale", false)));
        assert_eq!(point_line("waiting"), None);
        let line = |name: &str, required, form: Option<&str>| Line {
            name: name.into(),
            required,
            form: form.map(str::to_owned),
        };
        let ledger = ledger_lines("# points\nrequired 1.up\nopen 10.split in apart # later\n").unwrap();
        assert_eq!(ledger, [line("1.up", true, None), line("10.split", false, Some("apart"))]);
        assert!(ledger_lines("maybe 1.up").is_err());
        assert!(ledger_lines("required 1.up in pieces").is_err());
    }

    #[test]
    fn a_form_is_held_to_its_own_points() {
        let ledger = ledger_lines("required 1.up\nrequired 10.split in apart\n").unwrap();
        let heard = |lines: &[&str]| {
            let mut points = Points::default();
            lines.iter().for_each(|line| points.hear(line));
            points
        };
        let points = heard(&["PASS 1.up", "FAIL 1.up: once", "PASS 1.up"]);
        let points = compare("together", &[], &ledger, &points).unwrap();
        assert_eq!((points.len(), points[0].passed), (1, Some(false)));
        let seen = heard(&["PASS 1.up", "waiting"]);
        let points = compare("apart", &[], &ledger, &seen).unwrap();
        let reached: Vec<_> = points.iter().map(|point| (point.name.as_str(), point.passed)).collect();
        assert_eq!(reached, [("1.up (apart)", Some(true)), ("10.split (apart)", None)]);
        let points = compare("apart", &["3"], &ledger, &seen).unwrap();
        assert_eq!(points.len(), 1, "what is not asked for is not missed");
        assert!(compare("apart", &[], &ledger, &heard(&["PASS 2.new"])).is_err());
    }
}
