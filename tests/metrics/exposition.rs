//! The text form of OpenMetrics, read as strictly as its specification is written.

use std::collections::{BTreeMap, BTreeSet};

/// A page of figures.
#[derive(Debug, Default)]
pub(super) struct Exposition {
    families: BTreeMap<String, Family>,
    samples: BTreeMap<(String, Labels), f64>,
}

type Labels = BTreeMap<String, String>;

#[derive(Debug, Default)]
struct Family {
    kind: Option<String>,
    help: Option<String>,
    unit: Option<String>,
}

impl Exposition {
    /// Reads a page; what is against the specification is an error that names the line.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let text = text
            .strip_suffix("# EOF\n")
            .ok_or("it does not end with # EOF")?;
        let mut res = Self::default();
        let mut current = String::new();
        for line in text.split_terminator('\n') {
            res.line(line, &mut current)
                .map_err(|why| format!("{why}: {line}"))?;
        }
        match res.families.iter().find(|it| it.1.kind.is_none()) {
            Some((name, _)) => Err(format!("{name} has no type")),
            None => Ok(res),
        }
    }

    fn line(&mut self, line: &str, current: &mut String) -> Result<(), String> {
        let Some(comment) = line.strip_prefix("# ") else {
            return self.sample(line, current);
        };
        let mut words = comment.splitn(3, ' ');
        let (Some(word), Some(name), Some(rest)) = (words.next(), words.next(), words.next())
        else {
            return Err("a comment that says nothing".to_owned());
        };
        check_name(name)?;
        if name != current {
            if self.families.contains_key(name) {
                return Err("a family in two pieces".to_owned());
            }
            name.clone_into(current);
        }
        let has_samples = self.samples.keys().any(|it| of_family(&it.0, name));
        let family = self.families.entry(name.to_owned()).or_default();
        if word == "HELP" && rest.replace("\\\"", "").contains('"') {
            return Err("a quote in a help".to_owned());
        }
        let place = match word {
            "HELP" => &mut family.help,
            "TYPE" if ["gauge", "counter", "info"].contains(&rest) => &mut family.kind,
            "UNIT" if name.ends_with(&format!("_{rest}")) => &mut family.unit,
            _ => return Err("no such comment".to_owned()),
        };
        match place.replace(rest.to_owned()) {
            None if !has_samples => Ok(()),
            None => Err("said behind its samples".to_owned()),
            Some(_) => Err("said twice".to_owned()),
        }
    }

    fn sample(&mut self, line: &str, family: &str) -> Result<(), String> {
        let (series, value) = line.rsplit_once(' ').ok_or("no value")?;
        let (name, labels) = match series.split_once('{') {
            Some((name, rest)) => (name, labels(rest)?),
            None => (series, Labels::new()),
        };
        check_name(name)?;
        let kind = self.families.get(family).and_then(|it| it.kind.as_deref());
        let expected = match kind {
            Some("counter") => format!("{family}_total"),
            Some("info") => format!("{family}_info"),
            Some(_) => family.to_owned(),
            None => return Err("a sample without a type".to_owned()),
        };
        if name != expected {
            return Err(format!("a sample that is not of {family}"));
        }
        let value: f64 = value.parse().map_err(|_| "not a number")?;
        match kind {
            Some("counter") if value < 0.0 => return Err("a counter below zero".to_owned()),
            Some("info") if value != 1.0 => return Err("an info that is not 1".to_owned()),
            _ => {}
        }
        match self.samples.insert((name.to_owned(), labels), value) {
            None => Ok(()),
            Some(_) => Err("a series that was there already".to_owned()),
        }
    }

    /// The figure of the one series of that name with these labels among its own.
    pub(super) fn get(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let found: Vec<f64> = self.all(name, labels).collect();
        match found[..] {
            [one] => one,
            _ => panic!("{} series of {name} {labels:?}: {self:#?}", found.len()),
        }
    }

    /// The sum over all series of that name with these labels among their own.
    pub(super) fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.all(name, labels).sum()
    }

    fn all(&self, name: &str, labels: &[(&str, &str)]) -> impl Iterator<Item = f64> {
        let has = |own: &Labels| {
            let mut labels = labels.iter();
            labels.all(|it| own.get(it.0).is_some_and(|own| own == it.1))
        };
        let found = self.samples.iter();
        let found = found.filter(move |((own, own_labels), _)| own == name && has(own_labels));
        found.map(|it| *it.1)
    }

    /// Every value of that label.
    pub(super) fn values(&self, label: &str) -> BTreeSet<&str> {
        let labels = self.samples.keys().filter_map(|it| it.1.get(label));
        labels.map(String::as_str).collect()
    }

    /// What Prometheus' own advice on names says against these.
    pub(super) fn odd_names(&self) -> Vec<&String> {
        let odd = |name: &str, family: &Family| {
            let help = family.help.as_deref().unwrap_or_default();
            let seconds = name.contains("_time") || name.contains("timestamp");
            help.is_empty()
                || !(name.starts_with("pomd_") || name.starts_with("process_"))
                || name.ends_with("_total")
                || seconds && family.unit.as_deref() != Some("seconds")
                || name.contains("bytes") && family.unit.as_deref() != Some("bytes")
        };
        let families = self.families.iter();
        families
            .filter(|it| odd(it.0, it.1))
            .map(|it| it.0)
            .collect()
    }
}

fn of_family(sample: &str, family: &str) -> bool {
    let rest = sample.strip_prefix(family);
    rest.is_some_and(|it| ["", "_total", "_info"].contains(&it))
}

fn check_name(name: &str) -> Result<(), String> {
    let mut letters = name.chars();
    let first = letters.next().is_some_and(|it| it.is_ascii_lowercase());
    let rest = letters.all(|it| it.is_ascii_lowercase() || it.is_ascii_digit() || it == '_');
    match first && rest {
        true => Ok(()),
        false => Err(format!("no name: {name}")),
    }
}

/// Reads `name="value",…}`.
fn labels(text: &str) -> Result<Labels, String> {
    let mut res = Labels::new();
    let mut rest = text;
    if rest == "}" {
        return Ok(res);
    }
    loop {
        let (name, behind) = rest.split_once("=\"").ok_or("no label")?;
        check_name(name)?;
        let (value, behind) = quoted(behind)?;
        if res.insert(name.to_owned(), value).is_some() {
            return Err(format!("{name} twice"));
        }
        match behind.strip_prefix(',') {
            Some(more) => rest = more,
            None if behind == "}" => return Ok(res),
            None => return Err("labels without an end".to_owned()),
        }
    }
}

/// Reads on to the quote that ends a value; the value, and what is behind.
fn quoted(text: &str) -> Result<(String, &str), String> {
    let mut value = String::new();
    let mut letters = text.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => return Ok((value, &text[at + 1..])),
            '\\' => value.push(match letters.next() {
                Some((_, 'n')) => '\n',
                Some((_, it @ ('\\' | '"'))) => it,
                _ => return Err("a backslash before nothing".to_owned()),
            }),
            it => value.push(it),
        }
    }
    Err("a value without an end".to_owned())
}

#[test]
fn what_is_against_the_specification_is_refused() {
    let good = "# HELP a_b Said.\n# TYPE a_b counter\na_b_total{x=\"\\\"q\\\\\"} 2\n# EOF\n";
    let page = Exposition::parse(good).unwrap();
    assert_eq!(page.get("a_b_total", &[("x", "\"q\\")]), 2.0);
    let broken = [
        ("# EOF\n", ""),
        ("# EOF", "# EOF\n"),
        ("a_b_total{", "a_b{"),
        ("a_b_total{", "c_total{"),
        ("} 2", "} two"),
        ("} 2", "} -2"),
        ("} 2\n", "} 2\na_b_total{x=\"\\\"q\\\\\"} 3\n"),
        ("# TYPE a_b counter\n", ""),
        (
            "# TYPE a_b counter\n",
            "# TYPE a_b counter\n# TYPE a_b counter\n",
        ),
        ("} 2\n", "} 2\n# TYPE c gauge\nc 1\n# HELP a_b Again.\n"),
        ("Said.", "\"Said\"."),
        ("# HELP", "# UNIT a_b bytes\n# HELP"),
        ("\\\"q", "\"q"),
        ("x=", "x-y="),
    ];
    for (from, to) in broken {
        let page = good.replacen(from, to, 1);
        assert_ne!(page, good);
        assert!(Exposition::parse(&page).is_err(), "{page}");
    }
}
