//! What a daemon serves and who may call it; built once at start, then only read.
//!
//! A path finds its method in one look: the tables are made from the descriptor sets, so the guard knows beforehand
//! whether a call streams. No message is looked at here.

use std::{
    any::Any,
    collections::HashMap,
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};
use tonic::{body::Body, server::NamedService};
use tower::{Service, ServiceExt};

use crate::{caller::Access, methods, metrics::CallMetrics, scope::Action};

/// What services ask tonic for, both ways, unless the config says otherwise: `.max_decoding_message_size(..)` and
/// `.max_encoding_message_size(..)` on each generated server before it is added.
pub const MAX_MESSAGE_BYTES: usize = 100 * 1024 * 1024;

/// The prefix under which every service answers too; the seeds' own command lines use it.
const ALIAS: &str = "/proto.";

/// What a service answers with.
pub type Answer = Pin<Box<dyn Future<Output = Result<http::Response<Body>, Infallible>> + Send>>;

/// A tower service of which only calling it is left.
pub(crate) trait Target: Send + Sync {
    fn call(&self, request: http::Request<Body>) -> Answer;
}

struct Erased<S>(S);

impl<S> Target for Erased<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>
        + Clone
        + Send
        + Sync
        + 'static,
    S::Future: Send + 'static,
{
    fn call(&self, request: http::Request<Body>) -> Answer {
        let mut service = self.0.clone();
        match service.poll_ready(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(_) => boxed(service.call(request)),
            Poll::Pending => Box::pin(service.oneshot(request)),
        }
    }
}

/// Keeps of a service only that it can be called.
pub(crate) fn erase<S>(service: S) -> Arc<dyn Target>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>
        + Clone
        + Send
        + Sync
        + 'static,
    S::Future: Send + 'static,
{
    Arc::new(Erased(service))
}

/// Generated services return a box already; a second one around it would be paid on every call.
fn boxed<F>(future: F) -> Answer
where
    F: Future<Output = Result<http::Response<Body>, Infallible>> + Send + 'static,
{
    let mut slot = Some(future);
    if let Some(answer) = (&mut slot as &mut dyn Any).downcast_mut::<Option<Answer>>()
        && let Some(answer) = answer.take()
    {
        return answer;
    }
    Box::pin(slot.expect("taken only when it is a box, and then returned"))
}

struct Served {
    name: &'static str,
    access: Access,
    target: Arc<dyn Target>,
}

/// What is served, by whom callable.
#[derive(Default)]
pub struct Services {
    served: Vec<Served>,
    routes: Vec<(&'static str, Arc<dyn Target>)>,
    doors: Vec<(&'static str, Access, Arc<dyn Target>)>,
    descriptors: Vec<&'static [u8]>,
    alias: bool,
}

impl Services {
    /// Nothing is served yet; the contract of Nexus is described.
    pub fn new() -> Self {
        Services {
            descriptors: vec![nexus_proto::FILE_DESCRIPTOR_SET],
            ..Services::default()
        }
    }

    /// Serves a generated service under its own name.
    pub fn add<S>(mut self, access: Access, svc: S) -> Self
    where
        S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>
            + NamedService
            + Clone
            + Send
            + Sync
            + 'static,
        S::Future: Send + 'static,
    {
        self.served.push(Served {
            name: S::NAME,
            access,
            target: erase(svc),
        });
        self
    }

    pub(crate) fn add_target(mut self, name: &'static str, access: Access, target: Arc<dyn Target>) -> Self {
        self.served.push(Served { name, access, target });
        self
    }

    /// Serves one exact method (`/package.Service/Method`) by a tower service of its own, with a codec of its own.
    /// Who may call it is decided by the service it belongs to, which must be added too.
    pub fn route<S>(mut self, path: &'static str, svc: S) -> Self
    where
        S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>
            + Clone
            + Send
            + Sync
            + 'static,
        S::Future: Send + 'static,
    {
        self.routes.push((path, erase(svc)));
        self
    }

    /// Passes every path under one of `prefixes` (`/gateway.v1.`) that is not served here to `svc`, unread.
    pub fn front_door<S>(mut self, prefixes: impl IntoIterator<Item = (&'static str, Access)>, svc: S) -> Self
    where
        S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>
            + Clone
            + Send
            + Sync
            + 'static,
        S::Future: Send + 'static,
    {
        let target: Arc<dyn Target> = erase(svc);
        let doors = prefixes.into_iter();
        self.doors
            .extend(doors.map(|(prefix, access)| (prefix, access, target.clone())));
        self
    }

    /// Answers under a leading `/proto.` too: it is taken off before anything else looks at the path.
    pub fn alias(mut self) -> Self {
        self.alias = true;
        self
    }

    /// Another encoded `FileDescriptorSet`, for services that are not in the project's own.
    pub fn describe(mut self, descriptors: &'static [u8]) -> Self {
        self.descriptors.push(descriptors);
        self
    }

    /// What begins the paths that are passed on (`/gateway.v1.`).
    pub(crate) fn door_prefixes(&self) -> impl Iterator<Item = &'static str> {
        self.doors.iter().map(|(prefix, ..)| *prefix)
    }

    /// The full names of the services added so far.
    pub fn names(&self) -> Vec<&'static str> {
        self.served.iter().map(|served| served.name).collect()
    }

    pub(crate) fn descriptors(&self) -> Vec<&'static [u8]> {
        self.descriptors.clone()
    }

    pub(crate) fn has_alias(&self) -> bool {
        self.alias
    }

    /// Turns the list into what each request is looked up in.
    pub(crate) fn table(self) -> Table {
        let mut table = Table {
            methods: HashMap::new(),
            services: HashMap::new(),
            doors: self.doors,
            alias: self.alias,
        };
        for described in self.descriptors.iter().flat_map(|set| methods::of(set)) {
            let path = format!("/{}/{}", described.service, described.method);
            let owner = match self.served.iter().find(|served| served.name == described.service) {
                Some(served) => Some((served.access, served.target.clone())),
                None => table.door(&path),
            };
            if let Some((access, target)) = owner {
                let kind = if described.streams { Kind::Stream } else { Kind::Unary };
                table
                    .methods
                    .entry(path.as_str().into())
                    .or_insert_with(|| Arc::new(Method::new(&path, access, kind, target)));
            }
        }
        for served in self.served {
            let prefix = format!("/{}/", served.name);
            let described = table.methods.keys().any(|path| path.starts_with(&prefix));
            table.services.insert(
                served.name,
                Owner {
                    access: served.access,
                    target: (!described).then_some(served.target),
                },
            );
        }
        for (path, target) in self.routes {
            let known = table.methods.get(path).map(|method| (method.access, method.kind));
            let (access, kind) = known.unwrap_or_else(|| {
                let access = table
                    .services
                    .get(service_of(path))
                    .map_or(Access::ADMIN, |owner| owner.access);
                (access, Kind::Unknown)
            });
            table
                .methods
                .insert(path.into(), Arc::new(Method::new(path, access, kind, target)));
        }
        table
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Unary,
    Stream,
    /// Not in any descriptor set: limited like a unary call until it answers, then left alone like a stream.
    Unknown,
}

pub(crate) struct Method {
    pub path: Box<str>,
    pub access: Access,
    pub action: Action,
    pub kind: Kind,
    pub target: Arc<dyn Target>,
    pub metrics: CallMetrics,
}

impl Method {
    fn new(path: &str, access: Access, kind: Kind, target: Arc<dyn Target>) -> Self {
        Method {
            path: path.into(),
            access,
            action: Action::of(path),
            kind,
            target,
            metrics: CallMetrics::default(),
        }
    }
}

struct Owner {
    access: Access,
    // Only where no descriptor names its methods: then the service itself says which it has.
    target: Option<Arc<dyn Target>>,
}

pub(crate) struct Table {
    methods: HashMap<Box<str>, Arc<Method>>,
    services: HashMap<&'static str, Owner>,
    doors: Vec<(&'static str, Access, Arc<dyn Target>)>,
    alias: bool,
}

impl Table {
    pub fn find(&self, path: &str) -> Option<Arc<Method>> {
        if let Some(method) = self.methods.get(path) {
            return Some(method.clone());
        }
        let (access, target) = match self.services.get(service_of(path)) {
            Some(owner) => (owner.access, owner.target.clone()?),
            None => self.door(path)?,
        };
        Some(Arc::new(Method::new(path, access, Kind::Unknown, target)))
    }

    /// The path without the alias prefix, if it has one.
    pub fn canonical(&self, path: &str) -> Option<String> {
        let rest = path.strip_prefix(ALIAS)?;
        self.alias.then(|| format!("/{rest}"))
    }

    fn door(&self, path: &str) -> Option<(Access, Arc<dyn Target>)> {
        let (_, access, target) = self.doors.iter().find(|(prefix, ..)| path.starts_with(prefix))?;
        Some((*access, target.clone()))
    }
}

/// `a.v1.B` of `/a.v1.B/C`; empty if the path has no such form.
pub(crate) fn service_of(path: &str) -> &str {
    path.strip_prefix('/')
        .and_then(|rest| rest.split_once('/'))
        .map_or("", |(service, _)| service)
}
