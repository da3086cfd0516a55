//! The modules of one crate, found as the compiler finds them: from the root by `mod` items.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use syn::{Attribute, Expr, Item, ItemMod, Lit, Meta, UseTree, Visibility};

/// The names from the root of the crate to a module; empty for the root itself.
pub type ModulePath = Vec<String>;

#[derive(Default)]
pub struct Module {
    /// The source file, relative to `src`, with `/` between its parts.
    pub file: String,
    pub children: BTreeSet<String>,
    /// Names of functions, types, constants and macros that stand here.
    pub items: BTreeSet<String>,
    pub imports: Vec<Import>,
    /// Everything but modules and imports; what the arrows are read from.
    pub code: Vec<Item>,
}

/// One name that a `use` item brings in.
#[derive(Debug)]
pub struct Import {
    pub path: Vec<String>,
    /// The name it has here; `None` for `*`.
    pub name: Option<String>,
    /// `pub use`: the name is passed on, which is no use of it.
    pub public: bool,
}

pub type Tree = BTreeMap<ModulePath, Module>;

/// `root` is `lib.rs` or `main.rs`.
pub fn read(src: &Path, root: &str) -> Result<Tree> {
    let mut tree = Tree::new();
    let mut waiting = vec![Waiting {
        module: Vec::new(),
        file: src.join(root),
        below: src.to_path_buf(),
    }];
    while let Some(next) = waiting.pop() {
        let text = fs::read_to_string(&next.file).with_context(|| format!("failed to read {}", next.file.display()))?;
        let parsed = syn::parse_file(&text).with_context(|| format!("failed to parse {}", next.file.display()))?;
        let name = next.file.strip_prefix(src).unwrap_or(&next.file);
        let scope = Scope {
            file: name.to_string_lossy().replace('\\', "/"),
            directory: next.file.parent().unwrap_or(src).to_path_buf(),
        };
        let mut inline = vec![(next.module, next.below, parsed.items)];
        while let Some((path, below, items)) = inline.pop() {
            let module = read_module(&path, &below, items, &scope, &mut inline, &mut waiting);
            tree.insert(path, module);
        }
    }
    Ok(tree)
}

struct Waiting {
    module: ModulePath,
    file: PathBuf,
    /// Where the files of its child modules lie.
    below: PathBuf,
}

struct Scope {
    file: String,
    directory: PathBuf,
}

type Inline = Vec<(ModulePath, PathBuf, Vec<Item>)>;

fn read_module(
    path: &ModulePath,
    below: &Path,
    items: Vec<Item>,
    scope: &Scope,
    inline: &mut Inline,
    waiting: &mut Vec<Waiting>,
) -> Module {
    let mut module = Module {
        file: scope.file.clone(),
        ..Module::default()
    };
    for item in items {
        if attributes(&item).is_some_and(is_test) {
            continue;
        }
        match item {
            Item::Mod(child) => {
                let name = child.ident.to_string();
                module.children.insert(name.clone());
                let mut inner = path.clone();
                inner.push(name.clone());
                let directory = below.join(&name);
                match child.content {
                    Some((_, items)) => inline.push((inner, directory, items)),
                    None => waiting.push(Waiting {
                        file: file_of(&child, below, &scope.directory),
                        module: inner,
                        below: directory,
                    }),
                }
            }
            Item::Use(item) => {
                let public = !matches!(item.vis, Visibility::Inherited);
                imports(&item.tree, &mut Vec::new(), public, &mut module.imports);
            }
            item => {
                module.items.extend(name_of(&item));
                module.code.push(item);
            }
        }
    }
    module
}

fn file_of(child: &ItemMod, below: &Path, directory: &Path) -> PathBuf {
    if let Some(path) = child.attrs.iter().find_map(path_attribute) {
        return directory.join(path);
    }
    let flat = below.join(format!("{}.rs", child.ident));
    if flat.exists() {
        flat
    } else {
        below.join(child.ident.to_string()).join("mod.rs")
    }
}

fn path_attribute(attribute: &Attribute) -> Option<String> {
    let Meta::NameValue(pair) = &attribute.meta else {
        return None;
    };
    match &pair.value {
        Expr::Lit(literal) if pair.path.is_ident("path") => match &literal.lit {
            Lit::Str(path) => Some(path.value()),
            _ => None,
        },
        _ => None,
    }
}

/// `#[cfg(test)]`, `#[cfg(all(test, unix))]`.
pub fn is_test(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| match &attribute.meta {
        Meta::List(list) if list.path.is_ident("cfg") => {
            list.tokens.clone().into_iter().any(|token| word_in(token, "test"))
        }
        Meta::Path(path) => path.is_ident("test"),
        _ => false,
    })
}

fn word_in(token: proc_macro2::TokenTree, word: &str) -> bool {
    // Groups lie in a list of their own: the nesting of an attribute is no reason to recurse.
    let mut waiting = vec![token];
    while let Some(token) = waiting.pop() {
        match token {
            proc_macro2::TokenTree::Ident(ident) if ident == word => return true,
            proc_macro2::TokenTree::Group(group) => waiting.extend(group.stream()),
            _ => {}
        }
    }
    false
}

fn imports(tree: &UseTree, path: &mut Vec<String>, public: bool, out: &mut Vec<Import>) {
    let mut add = |path: Vec<String>, name: Option<String>| out.push(Import { path, name, public });
    match tree {
        UseTree::Path(part) => {
            path.push(part.ident.to_string());
            imports(&part.tree, path, public, out);
            path.pop();
        }
        UseTree::Group(group) => {
            for tree in &group.items {
                imports(tree, path, public, out);
            }
        }
        UseTree::Glob(_) => add(path.clone(), None),
        // `use a::b::{self}` is `use a::b`.
        UseTree::Name(name) if name.ident == "self" => add(path.clone(), path.last().cloned()),
        UseTree::Rename(name) if name.ident == "self" => add(path.clone(), Some(name.rename.to_string())),
        UseTree::Name(name) => {
            let name = name.ident.to_string();
            add([path.as_slice(), std::slice::from_ref(&name)].concat(), Some(name));
        }
        UseTree::Rename(name) => add(
            [path.as_slice(), &[name.ident.to_string()]].concat(),
            Some(name.rename.to_string()),
        ),
    }
}

fn attributes(item: &Item) -> Option<&[Attribute]> {
    Some(match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => return None,
    })
}

fn name_of(item: &Item) -> Option<String> {
    let name = match item {
        Item::Const(item) => &item.ident,
        Item::Enum(item) => &item.ident,
        Item::Fn(item) => &item.sig.ident,
        Item::Macro(item) => item.ident.as_ref()?,
        Item::Static(item) => &item.ident,
        Item::Struct(item) => &item.ident,
        Item::Trait(item) => &item.ident,
        Item::Type(item) => &item.ident,
        Item::Union(item) => &item.ident,
        _ => return None,
    };
    Some(name.to_string())
}
