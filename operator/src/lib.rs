//! The operator: brings every selected node to what its NodeBootstraps say, and says truthfully how far it is.
//!
//! ```text
//! watch ─► store ─► world ─► queue ─► reconcile:  observe ─► render ─► decide ─► apply ─► status
//!   ▲                                                                             │
//!   └──────────────────────────────── API server ◄─── cluster ◄───────────────────┘
//! ```
//!
//! | module | what is in it |
//! |---|---|
//! | [`selection`] | which nodes a NodeBootstrap means (pure) |
//! | [`conflict`] | what several NodeBootstraps claim on one node (pure) |
//! | [`rollout`] | which node may be disrupted now (pure) |
//! | [`enrolment`] | which Reports there shall be and what they say; joining and leaving (pure) |
//! | [`history`] | which revisions are kept (pure) |
//! | [`objects`] | the objects made for a NodeBootstrap (pure) |
//! | [`status`], [`events`] | the status, and the Events that follow from it (pure) |
//! | [`observed`], [`store`], [`world`] | what is kept of what is watched, and whom a change concerns |
//! | [`watch`], [`queue`] | how changes come in, and who is looked at next |
//! | [`render`] | a spec brought together with what it refers to |
//! | [`cluster`] | the only code that writes |
//! | [`reconcile`], [`controller`] | one look at one NodeBootstrap, and the loop around it |
//! | [`health`], [`http`], [`telemetry`], [`error`] | what others see of all this |

pub mod cluster;
pub mod conflict;
pub mod controller;
pub mod enrolment;
pub mod error;
pub mod events;
pub mod health;
pub mod history;
pub mod http;
pub mod objects;
pub mod observed;
pub mod queue;
pub mod reconcile;
pub mod render;
pub mod rollout;
pub mod selection;
pub mod skew;
pub mod status;
pub mod store;
pub mod telemetry;
pub mod watch;
pub mod world;
