//! Which file of the descriptor sets describes what. Extensions are not told: the contract is proto3 and has none.

use std::collections::HashMap;

use bytes::Bytes;
use prost::Message;
use prost_types::{DescriptorProto, EnumDescriptorProto, FileDescriptorProto};

/// A set whose files are left as they are on the wire.
#[derive(Clone, PartialEq, Message)]
struct FileSet {
    #[prost(bytes = "bytes", repeated, tag = "1")]
    file: Vec<Bytes>,
}

#[derive(Default)]
pub(super) struct Index {
    files: HashMap<String, Bytes>,
    /// By full name, the file that describes it.
    symbols: HashMap<String, Bytes>,
}

impl Index {
    pub fn of(sets: &[&'static [u8]]) -> Index {
        let mut index = Index::default();
        for set in sets {
            match FileSet::decode(Bytes::from_static(set)) {
                Ok(set) => set.file.into_iter().for_each(|file| index.add(file)),
                Err(error) => tracing::error!(%error, "a descriptor set cannot be read, reflection does without it"),
            }
        }
        index
    }

    pub fn file(&self, name: &str) -> Option<&[u8]> {
        self.files.get(name).map(|bytes| &**bytes)
    }

    pub fn symbol(&self, name: &str) -> Option<&[u8]> {
        self.symbols.get(name.trim_start_matches('.')).map(|bytes| &**bytes)
    }

    fn add(&mut self, bytes: Bytes) {
        let file = match FileDescriptorProto::decode(bytes.clone()) {
            Ok(file) => file,
            Err(error) => return tracing::error!(%error, "a descriptor cannot be read, reflection does without it"),
        };
        let package = file.package().to_owned();
        for found in &file.enum_type {
            self.add_enum(&package, found, &bytes);
        }
        // The types within a type, without recursion.
        let mut types: Vec<(String, &DescriptorProto)> =
            file.message_type.iter().map(|found| (package.clone(), found)).collect();
        while let Some((within, found)) = types.pop() {
            let name = join(&within, found.name());
            for field in &found.field {
                self.insert(join(&name, field.name()), &bytes);
            }
            for one in &found.oneof_decl {
                self.insert(join(&name, one.name()), &bytes);
            }
            for inner in &found.enum_type {
                self.add_enum(&name, inner, &bytes);
            }
            types.extend(found.nested_type.iter().map(|inner| (name.clone(), inner)));
            self.insert(name, &bytes);
        }
        for service in &file.service {
            let name = join(&package, service.name());
            for method in &service.method {
                self.insert(join(&name, method.name()), &bytes);
            }
            self.insert(name, &bytes);
        }
        self.files.insert(file.name().to_owned(), bytes);
    }

    fn add_enum(&mut self, within: &str, found: &EnumDescriptorProto, bytes: &Bytes) {
        for value in &found.value {
            self.insert(join(within, value.name()), bytes);
        }
        self.insert(join(within, found.name()), bytes);
    }

    fn insert(&mut self, name: String, bytes: &Bytes) {
        self.symbols.insert(name, bytes.clone());
    }
}

fn join(within: &str, name: &str) -> String {
    match within {
        "" => name.to_owned(),
        within => format!("{within}.{name}"),
    }
}
