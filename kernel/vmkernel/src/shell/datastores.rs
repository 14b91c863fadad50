//! Carrying out requests about datastores.

use super::print;
use crate::datastore;
use alloc::format;
use alloc::string::String;
use control::{DatastoreRequest, Response, format_bytes};

/// Carries a request out; `Ok(None)` when it has shown its answer itself.
///
/// # Errors
/// A text that says what to do.
pub(super) async fn carry_out(request: DatastoreRequest) -> Result<Option<Response>, String> {
    let done = |text: String| Response::Done(text);
    let response = match request {
        DatastoreRequest::List => Response::Datastores(datastore::summaries().await),
        DatastoreRequest::Info(name) => {
            Response::Datastore(datastore::details(name.as_str()).await?)
        }
        DatastoreRequest::Create {
            device,
            name,
            force,
            shared,
        } => {
            datastore::create(&device, &name, force, shared).await?;
            done(format!("datastore {name} is made and mounted"))
        }
        DatastoreRequest::Ls(path) => Response::Files(datastore::list(&path).await?),
        DatastoreRequest::Mkdir(path) => {
            datastore::make_directory(&path).await?;
            done(format!("{path} is made"))
        }
        DatastoreRequest::Cp { from, to } => {
            let bytes = datastore::copy(&from, &to).await?;
            done(format!("{} copied to {to}", format_bytes(bytes)))
        }
        DatastoreRequest::Mv { from, to } => {
            datastore::rename(&from, &to).await?;
            done(format!("{from} is {to} now"))
        }
        DatastoreRequest::Rm(path) => {
            datastore::remove(&path).await?;
            done(format!("{path} is removed"))
        }
        DatastoreRequest::Check(name) => Response::Check(datastore::check(name.as_str()).await?),
        DatastoreRequest::Test { path, records } => {
            let told = async |number: u64| print(&format!("record {number} is durable\n")).await;
            datastore::write_records(&path, records, told).await?;
            done(format!("{records} records written"))
        }
    };
    Ok(Some(response))
}
