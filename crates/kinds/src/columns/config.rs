//! Tables of the kinds with little to tell: config maps, secrets, service accounts, namespaces,
//! leases, runtime classes.

use serde_json::{Value, json};

use super::cells::Subject;
use super::{AGE, NAME, Printer, text};

pub static CONFIG_MAPS: Printer = Printer::new(&[NAME, text("Data", "Number of entries, text and binary."), AGE], config_map);

pub static SECRETS: Printer =
    Printer::new(&[NAME, text("Type", "What the secret is for."), text("Data", "Number of entries."), AGE], secret);

pub static SERVICE_ACCOUNTS: Printer = Printer::new(&[NAME, AGE], |object| vec![object.name(), object.age()]);

pub static NAMESPACES: Printer = Printer::new(&[NAME, text("Status", "Active or Terminating."), AGE], namespace);

pub static LEASES: Printer = Printer::new(&[NAME, text("Holder", "Who holds the lease."), AGE], lease);

pub static RUNTIME_CLASSES: Printer =
    Printer::new(&[NAME, text("Handler", "Name of the configuration in the container runtime."), AGE], runtime_class);

fn config_map(object: &Subject<'_>) -> Vec<Value> {
    vec![object.name(), json!(object.field("data").len() + object.field("binaryData").len()), object.age()]
}

fn secret(object: &Subject<'_>) -> Vec<Value> {
    vec![object.name(), json!(object.field("type").str()), json!(object.field("data").len()), object.age()]
}

fn namespace(object: &Subject<'_>) -> Vec<Value> {
    vec![object.name(), json!(object.status().field("phase").str()), object.age()]
}

fn lease(object: &Subject<'_>) -> Vec<Value> {
    vec![object.name(), json!(object.spec().field("holderIdentity").str()), object.age()]
}

fn runtime_class(object: &Subject<'_>) -> Vec<Value> {
    vec![object.name(), json!(object.field("handler").str()), object.age()]
}
