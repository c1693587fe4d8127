//! HTTP as upstream's API server speaks it: paths, media types, answers.

mod answer;
mod frames;
mod negotiate;
mod query;
mod request_info;

pub(crate) use answer::Answer;
pub(crate) use frames::{Chunk, Joiner, LIST_ITEM, Piece, joined, pack, put_varint};
pub(crate) use negotiate::{
    Accept, JSON, Media, PROTOBUF, Shape, YAML, accept, accept_ranges, content, not_acceptable, takes_gzip,
};
pub(crate) use query::Query;
#[cfg(test)]
pub(crate) use query::decode;
pub(crate) use request_info::RequestInfo;
