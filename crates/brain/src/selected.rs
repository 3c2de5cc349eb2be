//! Which selectors choose an object: those of Services and of disruption budgets, found by a label
//! that they require.
//!
//! Most selectors want a label to have a certain value. Those are found by the labels of the
//! object, so that a change of one pod costs as much as it has labels, however many Services there
//! are; the others are tried one by one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kinds::selector::{Operator, Requirement, Selector};

use crate::model::{Key, Meta};

/// Selectors with the keys of the objects whose they are. They choose in their own namespace.
#[derive(Debug, Default)]
pub struct Selectors {
    namespaces: BTreeMap<Arc<str>, InNamespace>,
}

/// Names, by the value of a label.
type ByValue = BTreeMap<Box<str>, BTreeSet<Arc<str>>>;

#[derive(Debug, Default)]
struct InNamespace {
    selectors: BTreeMap<Arc<str>, Selector>,
    /// Names of those that want a label to have one of some values, by label and value.
    by_label: BTreeMap<Box<str>, ByValue>,
    others: BTreeSet<Arc<str>>,
}

impl Selectors {
    /// Takes in the selector of an object; None takes it away.
    pub fn set(&mut self, key: &Key, selector: Option<&Selector>) {
        let within = self.namespaces.entry(key.namespace.clone()).or_default();
        if within.selectors.get(&key.name) == selector {
            return;
        }
        if let Some(old) = within.selectors.remove(&key.name) {
            within.unindex(&key.name, &old);
        }
        if let Some(selector) = selector {
            within.index(&key.name, selector);
            within.selectors.insert(key.name.clone(), selector.clone());
        }
        if within.selectors.is_empty() {
            self.namespaces.remove(&key.namespace);
        }
    }

    /// The keys of those that choose an object.
    pub fn choosing(&self, object: &Meta) -> Vec<Key> {
        let Some(within) = self.namespaces.get(&object.namespace) else { return Vec::new() };
        let by_label = object.labels.iter().filter_map(|(label, value)| within.by_label.get(label)?.get(value));
        let candidates: BTreeSet<&Arc<str>> = by_label.flatten().chain(&within.others).collect();
        let chosen = candidates.into_iter().filter(|name| object.labels.selected_by(&within.selectors[*name]));
        chosen.map(|name| Key { namespace: object.namespace.clone(), name: name.clone() }).collect()
    }
}

impl InNamespace {
    fn index(&mut self, name: &Arc<str>, selector: &Selector) {
        match indexed_by(selector) {
            Some(requirement) => {
                let values = self.by_label.entry(requirement.key.as_str().into()).or_default();
                for value in &requirement.values {
                    values.entry(value.as_str().into()).or_default().insert(name.clone());
                }
            }
            None => drop(self.others.insert(name.clone())),
        }
    }

    fn unindex(&mut self, name: &Arc<str>, selector: &Selector) {
        self.others.remove(name);
        let Some(requirement) = indexed_by(selector) else { return };
        let Some(values) = self.by_label.get_mut(requirement.key.as_str()) else { return };
        for value in &requirement.values {
            if let Some(names) = values.get_mut(value.as_str()) {
                names.remove(name);
                if names.is_empty() {
                    values.remove(value.as_str());
                }
            }
        }
        if values.is_empty() {
            self.by_label.remove(requirement.key.as_str());
        }
    }
}

fn indexed_by(selector: &Selector) -> Option<&Requirement> {
    let wants_values =
        |requirement: &&Requirement| matches!(requirement.operator, Operator::In | Operator::Equals | Operator::DoubleEquals);
    selector.requirements().iter().find(wants_values)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(selectors: &Selectors, labels: &[(&str, &str)]) -> Vec<String> {
        let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let object = Meta { namespace: "ns".into(), labels, ..Meta::default() };
        selectors.choosing(&object).iter().map(|key| key.name.to_string()).collect()
    }

    fn parse(text: &str) -> Selector {
        Selector::parse(text).expect("selectors of tests are well formed")
    }

    #[test]
    fn selectors_are_found_by_labels_and_without() {
        let mut selectors = Selectors::default();
        for (name, text) in [("equal", "app=web"), ("one-of", "app in (web,db)"), ("unlike", "app!=web"), ("both", "app=web,tier=front")] {
            selectors.set(&Key::new("ns", name), Some(&parse(text)));
        }
        selectors.set(&Key::new("other", "elsewhere"), Some(&Selector::everything()));
        assert_eq!(chosen(&selectors, &[("app", "web")]), ["equal", "one-of"]);
        assert_eq!(chosen(&selectors, &[("app", "web"), ("tier", "front")]), ["both", "equal", "one-of"]);
        assert_eq!(chosen(&selectors, &[("app", "db")]), ["one-of", "unlike"]);
        assert_eq!(chosen(&selectors, &[]), ["unlike"]);
    }

    #[test]
    fn selectors_that_changed_or_went_choose_no_longer() {
        let mut selectors = Selectors::default();
        let key = Key::new("ns", "a");
        selectors.set(&key, Some(&parse("app=web")));
        selectors.set(&key, Some(&parse("app=db")));
        assert_eq!(chosen(&selectors, &[("app", "web")]), Vec::<String>::new());
        assert_eq!(chosen(&selectors, &[("app", "db")]), ["a"]);
        selectors.set(&key, None);
        assert_eq!(chosen(&selectors, &[("app", "db")]), Vec::<String>::new());
        assert!(selectors.namespaces.is_empty());
    }

    #[test]
    fn what_selects_nothing_chooses_nothing() {
        let mut selectors = Selectors::default();
        selectors.set(&Key::new("ns", "a"), Some(&Selector::nothing()));
        assert_eq!(chosen(&selectors, &[("app", "web")]), Vec::<String>::new());
    }
}
