//! How much metadata there may be.

use http::HeaderValue;

use super::stats::Dropped;

/// How many entries, of how many bytes, and how long a key may be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Room {
    pub(super) entries: usize,
    pub(super) bytes: usize,
    pub(super) key_length: usize,
}

// ===== impl Room =====

impl Room {
    /// Takes the room of one entry, or says what there is not enough of; then nothing is taken, and
    /// a smaller entry may still fit.
    pub(super) fn take(&mut self, key: &str, value: &HeaderValue) -> Result<(), Dropped> {
        if key.len() > self.key_length {
            return Err(Dropped::Key);
        }
        let entries = self.entries.checked_sub(1).ok_or(Dropped::Count)?;
        let bytes = self.bytes.checked_sub(key.len() + value.len());
        self.bytes = bytes.ok_or(Dropped::Size)?;
        self.entries = entries;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_takes_no_room() {
        let mut room = Room {
            entries: 2,
            bytes: 10,
            key_length: 3,
        };
        let value = |text| HeaderValue::from_static(text);
        assert_eq!(room.take("long", &value("")), Err(Dropped::Key));
        assert_eq!(room.take("a", &value("0123456789")), Err(Dropped::Size));
        assert_eq!(room.take("a", &value("12345678")), Ok(()));
        assert_eq!(room.take("a", &value("1")), Err(Dropped::Size));
        assert_eq!(room.take("a", &value("")), Ok(()));
        assert_eq!(room.take("", &value("")), Err(Dropped::Count));
    }
}
