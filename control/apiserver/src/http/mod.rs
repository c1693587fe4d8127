//! HTTP as upstream's API server speaks it: paths, media types, answers.

mod negotiate;
mod query;
mod request_info;
