//! How many files a process may have open, of which each connection is one.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// So many are kept for all that is no connection of a client: the logs, checkpoints, NATS.
const KEPT_MAX: usize = 256;

/// Raises the limit of this process as far as the system lets it. The usual one (1,024) is from a time in which programs
/// could not wait for more files at once.
pub fn raise() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
    {
        tracing::warn!("at most {current:?} files can be open at a time, and that cannot be raised: {error}");
    }
}

/// How many of these connections there may be, so that something is left for the rest of the process.
pub(crate) fn room_for(connections: usize) -> usize {
    let most = getrlimit(Resource::Nofile).current;
    most.map_or(connections, |most| connections.min(room_of(usize::try_from(most).unwrap_or(usize::MAX))))
}

/// How many connections may stay for a moment beside these.
pub(crate) fn room_beside(connections: usize) -> usize {
    let most = getrlimit(Resource::Nofile).current;
    most.map_or(connections, |most| connections.min(kept_of(usize::try_from(most).unwrap_or(usize::MAX)) / 4))
}

fn room_of(most: usize) -> usize {
    (most - kept_of(most)).max(1)
}

fn kept_of(most: usize) -> usize {
    KEPT_MAX.min(most / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn something_is_left_for_the_rest_of_the_process_however_few_files_it_may_open() {
        for (most, room) in [(0, 1), (1, 1), (64, 32), (256, 128), (1_024, 768), (1_048_576, 1_048_320)] {
            assert_eq!(room_of(most), room, "{most}");
        }
    }
}
