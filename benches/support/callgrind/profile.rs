//! The two numbers that are wanted from a callgrind dump.

use std::collections::HashMap;

/// The C library's entry points that hand out memory; Rust's system allocator uses no others.
const ALLOCATORS: [&str; 5] = [
    "malloc",
    "calloc",
    "realloc",
    "posix_memalign",
    "aligned_alloc",
];
/// How the functions behind them and behind `free` are called in glibc. What the compiler splits off has a suffix.
const ALLOCATORS_OWN: [&str; 13] = [
    "free",
    "cfree",
    "memalign",
    "_int_malloc",
    "_int_free",
    "_int_realloc",
    "_int_memalign",
    "malloc_consolidate",
    "unlink_chunk",
    "sysmalloc",
    "systrim",
    "tcache_",
    "checked_request2size",
];

/// What calls cost.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Profile {
    /// Without those of the allocator: which way one piece of memory takes through it hangs on what all others left of
    /// the heap, and was seen to differ by 300 instructions between two runs of one program. What a layer can help is
    /// how often it allocates.
    pub(crate) instructions: u64,
    pub(crate) allocations: u64,
}

/// What a function is to the count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Handing out memory, as others ask for it.
    Allocates,
    AllocatorsOwn,
    Other,
}

// ===== impl Profile =====

impl Profile {
    /// Reads a dump. Names are spelled out once, `cfn=(7) malloc`, and are `cfn=(7)` from then on.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut kinds = HashMap::new();
        let mut profile = Self {
            instructions: 0,
            allocations: 0,
        };
        let (mut function, mut callee) = (Kind::Other, Kind::Other);
        let mut complete = false;
        let mut lines = text.lines();
        while let Some(line) = lines.next() {
            let number = |text: &str| {
                let number = text.parse::<u64>();
                number.map_err(|_| format!("not a number: {line}"))
            };
            if let Some(name) = line.strip_prefix("fn=") {
                function = kind_of(name, &mut kinds);
            } else if let Some(name) = line.strip_prefix("cfn=") {
                callee = kind_of(name, &mut kinds);
            } else if let Some(calls) = line.strip_prefix("calls=") {
                let count = number(calls.split(' ').next().unwrap_or_default())?;
                if callee == Kind::Allocates && function == Kind::Other {
                    profile.allocations += count;
                }
                // What the callee took is told under its own name.
                lines.next();
            } else if line.starts_with(|first: char| first.is_ascii_digit()) {
                let cost = line.split(' ').nth(1).unwrap_or_default();
                if function == Kind::Other {
                    profile.instructions += number(cost)?;
                }
            }
            complete |= line.starts_with("totals: ");
        }
        complete
            .then_some(profile)
            .ok_or_else(|| "a dump without its end".to_owned())
    }
}

/// Remembers what the function with this number is.
fn kind_of<'a>(function: &'a str, kinds: &mut HashMap<&'a str, Kind>) -> Kind {
    let Some((number, name)) = function.split_once(' ') else {
        return kinds.get(function).copied().unwrap_or(Kind::Other);
    };
    let kind = if ALLOCATORS.contains(&name) {
        Kind::Allocates
    } else if ALLOCATORS_OWN.iter().any(|own| name.starts_with(own)) {
        Kind::AllocatorsOwn
    } else {
        Kind::Other
    };
    kinds.insert(number, kind);
    kind
}
