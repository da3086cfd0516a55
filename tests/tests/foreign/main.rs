//! Programs in other languages against the real daemons, over plain gRPC libraries and `proto/*.proto`: what one of
//! them cannot do, no client can. The programs are in `foreign/` beside this folder, the daemons know nothing of them.

mod go;
mod grpcurl;
mod guide;
mod kit;
mod node;
mod python;
