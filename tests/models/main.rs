//! The concurrent parts of mesh-core under every order of their threads' steps, as `loom` goes through them: the files
//! themselves, with loom's atomics in the place of those of [`sync`].
//!
//! A model is small, two or three threads with one step or two each, since all orders are tried. What must hold in each is
//! asserted when the threads are done, and while they run.

#[path = "../../mesh-core/src/cluster/breaker.rs"]
#[allow(dead_code, reason = "the models need a part of it")]
mod breaker;
#[path = "../../mesh-core/src/discover/current.rs"]
#[allow(dead_code, reason = "the models need a part of it")]
mod current;
#[path = "../../mesh-core/src/connect/outcomes.rs"]
#[allow(dead_code, unreachable_pub, reason = "the models need a part of it")]
mod outcomes;
#[path = "../../mesh-core/src/http2/slots.rs"]
#[allow(dead_code, reason = "the models need a part of it")]
mod slots;
#[path = "../../mesh-core/src/retry/under_way.rs"]
#[allow(dead_code, reason = "the models need a part of it")]
mod under_way;

mod models;
mod reports;
mod resource;
mod subchannel;
mod sync;

fn main() {
    for (name, model) in models::ALL {
        loom::model(model);
        println!("{name}: holds");
    }
}
