//! Asks another version whether it can read the stores of a tree: `nexus upgrade --stores`.

use std::path::PathBuf;

use nexus_store::copy::{self, KNOWN};
use serde::{Deserialize, Serialize};

use crate::{commands::backup, context::Context, failure::Failure, output::Output};

/// What a version knows, and what it finds.
#[derive(Debug, Serialize, Deserialize)]
pub struct Facts {
    pub schema: u32,
    pub version: String,
    /// The schema that it migrates a store to, and the oldest schema whose programs can still work with the store then.
    pub known: Tables,
    pub stores: Vec<Store>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tables {
    pub schema: u32,
    pub oldest: u32,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Store {
    pub path: PathBuf,
    pub found: Tables,
    /// This version can work with it.
    pub fits: bool,
}

impl From<copy::Tables> for Tables {
    fn from(tables: copy::Tables) -> Tables {
        Tables {
            schema: tables.schema,
            oldest: tables.oldest,
        }
    }
}

impl Tables {
    /// Whether programs that know this much can work with such a store: first expand, then contract.
    pub fn can_work_with(self, found: Tables) -> bool {
        found.schema <= self.schema || found.oldest <= self.schema
    }

    /// Whether and how it can work with a store.
    fn after(self, found: Tables) -> Tables {
        if found.schema >= self.schema { found } else { self }
    }
}

impl Facts {
    /// What speaks against going from one version to this one, with the code that the daemons would end with.
    pub fn objection(&self, from: &Facts) -> Option<(String, &'static str)> {
        if let Some(store) = self.stores.iter().find(|store| !store.fits) {
            let said = format!(
                "nexus {} cannot work with {}: it has schema {}, for programs that know {} or newer, and this one knows {}",
                self.version,
                store.path.display(),
                store.found.schema,
                store.found.oldest,
                self.known.schema
            );
            return Some((said, "use a version that knows it, or restore a backup of before"));
        }
        let shut = |store: &&Store| !from.known.can_work_with(self.known.after(store.found));
        let store = self.stores.iter().find(shut)?;
        let said = format!(
            "nexus {} would change {} so that nexus {} could not work with it any more: there would be no way back",
            self.version,
            store.path.display(),
            from.version
        );
        Some((
            said,
            "upgrade to the version before it first; it knows the new tables and keeps the old ones",
        ))
    }
}

pub async fn show(context: &Context, output: &Output) -> Result<(), Failure> {
    let mut paths: Vec<PathBuf> = std::fs::read_dir(context.root.db_dir())
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| copy::is_database(path).unwrap_or(false))
        .collect();
    paths.extend(backup::elsewhere(context, output).await?);
    paths.sort();
    let known = Tables::from(KNOWN);
    let mut stores = Vec::new();
    for path in paths {
        let found = copy::tables(&path)
            .map_err(|error| Failure::new(crate::failure::Exit::Data, error.to_string()).hint("nexus doctor"))?;
        if let Some(found) = found.map(Tables::from) {
            let fits = known.can_work_with(found);
            stores.push(Store { path, found, fits });
        }
    }
    output.value(&Facts {
        schema: 1,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        known,
        stores,
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(version: &str, known: (u32, u32), store: (u32, u32)) -> Facts {
        let tables = |(schema, oldest)| Tables { schema, oldest };
        let (known, found) = (tables(known), tables(store));
        let fits = known.can_work_with(found);
        let path = "x.db".into();
        Facts {
            schema: 1,
            version: version.into(),
            known,
            stores: vec![Store { path, found, fits }],
        }
    }

    #[test]
    fn nobody_goes_where_there_is_no_way_back() {
        let one = facts("1", (1, 1), (1, 1));
        assert!(facts("2", (2, 1), (1, 1)).objection(&one).is_none(), "it expands");
        let (said, _) = facts("3", (3, 2), (1, 1)).objection(&one).unwrap();
        assert!(said.contains("no way back"), "{said}");
        let two = facts("2", (2, 1), (2, 1));
        assert!(
            facts("3", (3, 2), (2, 1)).objection(&two).is_none(),
            "two knows what three keeps"
        );
        assert!(
            facts("1", (1, 1), (2, 1)).objection(&two).is_none(),
            "back to one, over what two expanded"
        );
        let (said, _) = facts("1", (1, 1), (3, 2)).objection(&two).unwrap();
        assert!(
            said.contains("cannot work with x.db") && said.contains("schema 3"),
            "{said}"
        );
    }
}
