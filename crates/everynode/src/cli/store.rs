//! `everynode store`: looking after the file that holds a cluster's objects, while no server has it
//! open.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use ::store::OpenError;
use ::store::file::{self, Survey};
use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use serde_json::Value;

/// What a server manages: it makes these fields itself, and refuses new objects that have some of
/// them.
const MANAGED: &[&str] = &["resourceVersion", "uid", "creationTimestamp", "generation", "managedFields", "selfLink"];

/// Check, repair or export the objects of a cluster. Its server must not run.
#[derive(Debug, Args)]
pub struct Store {
    #[command(subcommand)]
    command: StoreCommand,
}

#[derive(Debug, Subcommand)]
enum StoreCommand {
    /// Read everything and check it. Exit code 0: whole; 1: damaged, and stderr says where; nothing
    /// is changed.
    Check(Place),
    /// Save what can be read of a damaged store to a new one in its place. The damaged file is kept
    /// beside it, and stderr says what was lost.
    Repair(Place),
    /// Write all objects to stdout, one JSON object a line, as `kubectl apply -f -` takes them.
    /// Works on a damaged store as far as it can be read; then the exit code is 1.
    Export(Export),
}

#[derive(Debug, Args)]
struct Place {
    /// The data directory of the cluster.
    data_dir: PathBuf,
}

#[derive(Debug, Args)]
struct Export {
    #[command(flatten)]
    place: Place,

    /// As they are stored, with status and the fields that the server manages.
    #[arg(long)]
    raw: bool,
}

impl Place {
    fn path(&self) -> PathBuf {
        self.data_dir.join("store.redb")
    }

    fn survey(&self) -> anyhow::Result<Survey> {
        let survey = file::survey(&self.path()).with_context(|| format!("cannot read the store of {}", self.data_dir.display()))?;
        survey.problems.iter().for_each(|problem| eprintln!("{}: {problem}", self.path().display()));
        Ok(survey)
    }
}

impl Store {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        match self.command {
            StoreCommand::Check(place) => check(&place),
            StoreCommand::Repair(place) => repair(&place),
            StoreCommand::Export(export) => write_all(&export),
        }
    }
}

fn check(place: &Place) -> anyhow::Result<ExitCode> {
    let survey = place.survey()?;
    let (records, revision) = (survey.records.len(), survey.revision);
    if survey.problems.is_empty() {
        eprintln!("{records} objects at revision {revision}: the store is whole");
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!("{records} objects can be read: restore a backup, or save them with `everynode store repair {}`", place.data_dir.display());
    Ok(ExitCode::FAILURE)
}

fn repair(place: &Place) -> anyhow::Result<ExitCode> {
    let repaired = match file::repair(&place.path()) {
        Err(OpenError::Damaged { reason, .. }) => bail!(
            "nothing of the store of {} can be read ({reason}): restore a backup; the file was left as it is",
            place.data_dir.display()
        ),
        repaired => repaired,
    };
    match repaired.with_context(|| format!("cannot repair the store of {}", place.data_dir.display()))? {
        None => eprintln!("the store is whole: nothing was changed"),
        Some(repaired) => {
            let survey = &repaired.survey;
            survey.problems.iter().for_each(|problem| eprintln!("{}: {problem}", place.path().display()));
            let (records, revision) = (survey.records.len(), survey.revision);
            eprintln!("{records} objects at revision {revision} were saved; the damaged file is {}", repaired.kept_as.display());
            eprintln!("what is not among them is lost, and what was deleted last may be back: compare `kubectl get` with what you expect");
            eprintln!(
                "objects whose owner is lost are deleted when the server starts: `everynode store export` shows what there is before"
            );
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn write_all(export: &Export) -> anyhow::Result<ExitCode> {
    let survey = export.place.survey()?;
    let mut objects: Vec<(u8, String)> = Vec::new();
    let mut is_whole = survey.problems.is_empty();
    for (key, entry) in &survey.records {
        match serde_json::from_slice::<Value>(&entry.value) {
            Ok(object) if export.raw => objects.push((rank(&object), object.to_string())),
            Ok(object) if is_made_with_another(&object) => {}
            Ok(object) => objects.push((rank(&object), applicable(object).to_string())),
            Err(_) => {
                is_whole = false;
                eprintln!("{}: the value is no JSON, and is left out", key.escape_ascii());
            }
        }
    }
    // The order of keys stays within a rank.
    objects.sort_by_key(|(rank, _)| *rank);
    let mut out = std::io::stdout().lock();
    for (_, object) in objects {
        writeln!(out, "{object}").context("cannot write the objects")?;
    }
    Ok(if is_whole { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The IPAddress of a Service comes with the Service, and would keep its address from it.
fn is_made_with_another(object: &Value) -> bool {
    object["kind"] == "IPAddress" && object["metadata"]["labels"]["ipaddress.kubernetes.io/managed-by"] == "ipallocator.k8s.io"
}

/// What others need comes first, and what runs comes last.
fn rank(object: &Value) -> u8 {
    match object["kind"].as_str().unwrap_or_default() {
        "Namespace" => 0,
        "PriorityClass" | "RuntimeClass" | "ServiceCIDR" | "IPAddress" | "ServiceAccount" | "ConfigMap" | "Secret" | "Node" => 1,
        "Pod" => 3,
        "Event" => 4,
        _ => 2,
    }
}

fn applicable(mut object: Value) -> Value {
    if let Some(fields) = object.as_object_mut() {
        fields.remove("status");
    }
    if let Some(metadata) = object["metadata"].as_object_mut() {
        MANAGED.iter().for_each(|field| drop(metadata.remove(*field)));
    }
    object
}
