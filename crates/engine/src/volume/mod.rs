//! Named and anonymous volumes of the `local` driver, below `<data root>/volumes/<name>/_data`.
