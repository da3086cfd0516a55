//! Which module a path leads to, through imports and names that are passed on.

use std::collections::BTreeSet;

use proc_macro2::{TokenStream, TokenTree};
use syn::visit::{self, Visit};

use crate::tree::{Module, ModulePath, Tree, is_test};

/// Imports that lead to imports; more than these is a circle of names.
const MOST_STEPS: usize = 16;

/// The modules that code in `module` uses.
pub fn of_module(tree: &Tree, path: &ModulePath) -> BTreeSet<ModulePath> {
    let module = &tree[path];
    let mut found = BTreeSet::new();
    for import in module.imports.iter().filter(|import| !import.public) {
        found.extend(resolve(tree, path, &import.path, MOST_STEPS));
    }
    let mut paths = Paths::default();
    for item in &module.code {
        paths.visit_item(item);
    }
    for words in &paths.found {
        found.extend(resolve(tree, path, words, MOST_STEPS));
    }
    found
}

/// The module in which what `words` names stands. `None`: it is of another crate, or a name of the prelude or of a scope.
fn resolve(tree: &Tree, from: &ModulePath, words: &[String], steps: usize) -> Option<ModulePath> {
    let steps = steps.checked_sub(1)?;
    let (first, mut rest) = words.split_first()?;
    let mut at = match first.as_str() {
        "crate" => ModulePath::new(),
        "self" => from.clone(),
        "super" => parent(from)?,
        _ => {
            rest = words;
            from.clone()
        }
    };
    let anchored = rest.len() < words.len();
    for (index, word) in rest.iter().enumerate() {
        if word == "super" {
            at = parent(&at)?;
            continue;
        }
        let module = tree.get(&at)?;
        if module.children.contains(word) {
            at.push(word.clone());
            continue;
        }
        if module.items.contains(word) {
            return Some(at);
        }
        if let Some(import) = module.imports.iter().find(|import| import.name.as_ref() == Some(word)) {
            let longer: Vec<String> = import.path.iter().chain(&rest[index + 1..]).cloned().collect();
            return resolve(tree, &at, &longer, steps);
        }
        if let Some(found) = through_globs(tree, &at, module, &rest[index..], steps) {
            return Some(found);
        }
        // A name that a macro made stands in the module that the path led to.
        return (anchored || index > 0).then_some(at);
    }
    Some(at)
}

fn through_globs(tree: &Tree, at: &ModulePath, module: &Module, rest: &[String], steps: usize) -> Option<ModulePath> {
    let word = rest.first()?;
    module
        .imports
        .iter()
        .filter(|import| import.name.is_none())
        .find_map(|import| {
            let target = resolve(tree, at, &import.path, steps)?;
            let there = tree.get(&target)?;
            let knows = there.children.contains(word)
                || there.items.contains(word)
                || there
                    .imports
                    .iter()
                    .any(|import| import.public && import.name.as_ref() == Some(word));
            if knows && &target != at {
                resolve(tree, &target, rest, steps)
            } else {
                None
            }
        })
}

fn parent(path: &ModulePath) -> Option<ModulePath> {
    path.split_last().map(|(_, above)| above.to_vec())
}

/// Every path in a piece of code, those in the arguments of macros too.
#[derive(Default)]
struct Paths {
    found: BTreeSet<Vec<String>>,
}

impl Paths {
    /// Arguments of a macro are tokens, of which only `a::b` is looked at.
    fn tokens(&mut self, stream: TokenStream) {
        let mut waiting = vec![stream];
        while let Some(stream) = waiting.pop() {
            let mut words: Vec<String> = Vec::new();
            let mut colons = 0;
            for token in stream {
                match token {
                    TokenTree::Ident(ident) => {
                        if colons != 2 {
                            self.keep(&mut words);
                        }
                        words.push(ident.to_string());
                        colons = 0;
                    }
                    TokenTree::Punct(punct) if punct.as_char() == ':' => colons += 1,
                    TokenTree::Group(group) => {
                        self.keep(&mut words);
                        waiting.push(group.stream());
                        colons = 0;
                    }
                    _ => {
                        self.keep(&mut words);
                        colons = 0;
                    }
                }
            }
            self.keep(&mut words);
        }
    }

    fn keep(&mut self, words: &mut Vec<String>) {
        let words = std::mem::take(words);
        if !words.is_empty() {
            self.found.insert(words);
        }
    }
}

impl<'ast> Visit<'ast> for Paths {
    fn visit_path(&mut self, path: &'ast syn::Path) {
        let words = path.segments.iter().map(|segment| segment.ident.to_string());
        if path.leading_colon.is_none() {
            self.found.insert(words.collect());
        }
        visit::visit_path(self, path);
    }

    /// `pub(crate)` and `pub(super)` use nothing.
    fn visit_visibility(&mut self, _: &'ast syn::Visibility) {}

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        self.visit_path(&call.path);
        self.tokens(call.tokens.clone());
    }

    /// `use` inside a function.
    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        let mut waiting = vec![(Vec::new(), &item.tree)];
        while let Some((mut path, tree)) = waiting.pop() {
            match tree {
                syn::UseTree::Path(part) => {
                    path.push(part.ident.to_string());
                    waiting.push((path, &part.tree));
                }
                syn::UseTree::Group(group) => waiting.extend(group.items.iter().map(|tree| (path.clone(), tree))),
                syn::UseTree::Name(name) => {
                    if name.ident != "self" {
                        path.push(name.ident.to_string());
                    }
                    self.found.insert(path);
                }
                syn::UseTree::Rename(name) => {
                    path.push(name.ident.to_string());
                    self.found.insert(path);
                }
                syn::UseTree::Glob(_) => {
                    self.found.insert(path);
                }
            }
        }
    }

    fn visit_impl_item_fn(&mut self, function: &'ast syn::ImplItemFn) {
        if !is_test(&function.attrs) {
            visit::visit_impl_item_fn(self, function);
        }
    }
}
