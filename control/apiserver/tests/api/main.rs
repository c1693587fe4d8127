//! The API as a client sees it: requests through `ApiServer::call`, over a store in memory.

mod deletes;
mod in_process;
mod lists;
mod services;
mod subresources;
mod support;
mod watches;
mod writes;
