use serde_json::{Value, json};

use super::*;
use crate::cluster::call::whole_seconds;
