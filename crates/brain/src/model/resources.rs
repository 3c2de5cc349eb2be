//! Amounts of what nodes have and pods ask for.

use std::collections::BTreeMap;
use std::ops::{AddAssign, SubAssign};

use kinds::quantity::Quantity;
use serde::{Deserialize, Deserializer};

/// CPU in thousandths of a core, memory and ephemeral storage in bytes, the rest (`pods` too) in
/// units, by name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Resources {
    pub milli_cpu: i64,
    pub memory: i64,
    pub ephemeral_storage: i64,
    /// What a node offers; a pod takes one without asking.
    pub pods: i64,
    /// Extended resources and huge pages.
    pub others: BTreeMap<Box<str>, i64>,
}

impl Resources {
    pub fn set(&mut self, name: &str, quantity: &Quantity) {
        match name {
            "cpu" => self.milli_cpu = quantity.millis(),
            "memory" => self.memory = quantity.value(),
            "ephemeral-storage" => self.ephemeral_storage = quantity.value(),
            "pods" => self.pods = quantity.value(),
            _ => drop(self.others.insert(name.into(), quantity.value())),
        }
    }

    /// Adds to what is not zero, as overhead is added to limits: where there is none there still is
    /// none.
    pub fn add_where_some(&mut self, other: &Resources) {
        for (mine, theirs) in [
            (&mut self.milli_cpu, other.milli_cpu),
            (&mut self.memory, other.memory),
            (&mut self.ephemeral_storage, other.ephemeral_storage),
        ] {
            if *mine > 0 {
                *mine = mine.saturating_add(theirs);
            }
        }
        for (name, mine) in &mut self.others {
            *mine = mine.saturating_add(other.others.get(name).copied().unwrap_or(0));
        }
    }

    /// The larger of both, resource by resource.
    pub fn max_with(&mut self, other: &Resources) {
        self.milli_cpu = self.milli_cpu.max(other.milli_cpu);
        self.memory = self.memory.max(other.memory);
        self.ephemeral_storage = self.ephemeral_storage.max(other.ephemeral_storage);
        self.pods = self.pods.max(other.pods);
        for (name, &amount) in &other.others {
            let mine = self.others.entry(name.clone()).or_default();
            *mine = (*mine).max(amount);
        }
    }
}

impl AddAssign<&Resources> for Resources {
    fn add_assign(&mut self, other: &Resources) {
        self.milli_cpu = self.milli_cpu.saturating_add(other.milli_cpu);
        self.memory = self.memory.saturating_add(other.memory);
        self.ephemeral_storage = self.ephemeral_storage.saturating_add(other.ephemeral_storage);
        self.pods = self.pods.saturating_add(other.pods);
        for (name, &amount) in &other.others {
            let mine = self.others.entry(name.clone()).or_default();
            *mine = mine.saturating_add(amount);
        }
    }
}

impl SubAssign<&Resources> for Resources {
    fn sub_assign(&mut self, other: &Resources) {
        self.milli_cpu = self.milli_cpu.saturating_sub(other.milli_cpu);
        self.memory = self.memory.saturating_sub(other.memory);
        self.ephemeral_storage = self.ephemeral_storage.saturating_sub(other.ephemeral_storage);
        self.pods = self.pods.saturating_sub(other.pods);
        for (name, &amount) in &other.others {
            let mine = self.others.entry(name.clone()).or_default();
            *mine = mine.saturating_sub(amount);
        }
    }
}

impl<'de> Deserialize<'de> for Resources {
    /// From a ResourceList; what is not a quantity counts as nothing (the API server refuses it
    /// anyway).
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Resources, D::Error> {
        let list = BTreeMap::<Box<str>, serde_json::Value>::deserialize(deserializer)?;
        let mut resources = Resources::default();
        for (name, value) in &list {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            if let Ok(quantity) = Quantity::parse(&text) {
                resources.set(name, &quantity);
            }
        }
        Ok(resources)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(amount: i64) -> Resources {
        let others = BTreeMap::from([("example.com/gpu".into(), amount)]);
        Resources { milli_cpu: amount, memory: amount, ephemeral_storage: amount, pods: amount, others }
    }

    #[test]
    fn amounts_do_not_wrap() {
        let most = of(i64::MAX);
        let mut sum = of(1);
        sum += &most;
        assert_eq!(sum, most);
        sum.add_where_some(&most);
        assert_eq!(sum, most);
        let mut difference = of(-2);
        difference -= &most;
        assert_eq!(difference, of(i64::MIN));
    }
}
