//! `docker history`: pure.

use super::config;
use super::index::{Image, Index};
use skep_model::image::{HistoryEntry, Reference};

const UNKNOWN_ID: &str = "<missing>";

/// Newest entry first. An entry whose image is known here (its own, then the parents' of
/// local builds) carries that image's id and names.
pub(crate) fn history(index: &Index, image: &Image) -> Vec<HistoryEntry> {
    let mut sizes = image.chain.iter().map(|id| index.layer(id).map_or(0, |layer| layer.size));
    let entries = image.config.history.iter().map(|entry| HistoryEntry {
        created: config::parse_created(entry.created.as_deref()),
        created_by: entry.created_by.clone(),
        comment: entry.comment.clone(),
        empty_layer: entry.empty_layer,
        size: if entry.empty_layer { 0 } else { sizes.next().unwrap_or(0) },
        tags: Vec::new(),
        id: UNKNOWN_ID.to_owned(),
    });
    let mut entries: Vec<HistoryEntry> = entries.collect();
    entries.reverse();
    let mut at = Some(image);
    for entry in &mut entries {
        let Some(known) = at else { break };
        entry.id = known.id.to_string();
        entry.tags = known.names.iter().filter(|name| name.digest.is_none()).map(Reference::familiar).collect();
        at = known.record.parent.as_ref().and_then(|parent| index.image(parent)).map(|image| &**image);
    }
    entries
}
