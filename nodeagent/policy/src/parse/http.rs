//! What rules say of requests.

use super::cursor::{At, Report};
use super::error::Problem;
use super::node::shortened;
use crate::request::{HttpMatch, MAX_MATCHES, MAX_PATH, Method, PathMatch, normal};

const METHODS: &str = "GET, HEAD, POST, PUT, DELETE, CONNECT, OPTIONS, TRACE or PATCH";

/// Reads `http` of a rule.
pub(super) fn matches(at: &At<'_>, report: &mut Report<'_>) -> Option<Vec<HttpMatch>> {
    let items = at.some_items(report, "write methods or a path, or remove the field to mean any traffic")?;
    if items.len() > MAX_MATCHES {
        at.fault(report, Problem::TooManyMatches(items.len()));
        return None;
    }
    let entries: Vec<HttpMatch> = items.iter().filter_map(|item| entry(item, report)).collect();
    (entries.len() == items.len()).then_some(entries)
}

fn entry(at: &At<'_>, report: &mut Report<'_>) -> Option<HttpMatch> {
    let fields = at.fields(report, &["methods", "path"])?;
    if !fields.has("methods") && !fields.has("path") {
        at.fault(report, Problem::HttpEmpty);
        return None;
    }
    // What has a fault must not be taken for what is absent.
    let methods = match fields.get("methods") {
        Some(at) => Some(methods(&at, report)?),
        None if fields.has("methods") => return None,
        None => None,
    };
    let path = match fields.get("path") {
        Some(at) => Some(path(&at, report)?),
        None if fields.has("path") => return None,
        None => None,
    };
    Some(HttpMatch { methods, path })
}

fn methods(at: &At<'_>, report: &mut Report<'_>) -> Option<Vec<Method>> {
    let items = at.some_items(report, "name a method, or remove the field to mean any")?;
    let found: Vec<Method> =
        items.iter().filter_map(|item| item.choice(report, &Method::ALL, METHODS)).collect();
    (found.len() == items.len()).then_some(found)
}

fn path(at: &At<'_>, report: &mut Report<'_>) -> Option<PathMatch> {
    let fields = at.fields(report, &["type", "value"])?;
    let kinds = [("PathPrefix", false), ("Exact", true)];
    // As in Gateway API, a path without a type is a prefix.
    let is_exact = match fields.get("type") {
        Some(at) => at.choice(report, &kinds, "PathPrefix or Exact")?,
        None => false,
    };
    let at = fields.need(report, "value", "a path that begins with `/`, such as /v1")?;
    let found = at.text(report)?;
    if found.len() > MAX_PATH {
        at.fault(report, Problem::LongPath(found.len()));
        return None;
    }
    match normal(found) {
        Ok(normal) if normal == found => {
            Some(if is_exact { PathMatch::Exact(normal) } else { PathMatch::Prefix(normal) })
        }
        Ok(normal) => {
            at.fault(report, Problem::PathForm { found: shortened(found), normal: shortened(&normal) });
            None
        }
        Err(why) => {
            at.fault(report, Problem::Path { found: shortened(found), why });
            None
        }
    }
}
