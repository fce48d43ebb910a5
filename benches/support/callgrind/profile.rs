//! The two numbers that are wanted from a callgrind dump.

use std::collections::HashSet;

/// The C library's entry points that hand out memory; Rust's system allocator uses no others.
const ALLOCATORS: [&str; 5] = [
    "malloc",
    "calloc",
    "realloc",
    "posix_memalign",
    "aligned_alloc",
];

#[derive(Clone, Copy, Debug)]
pub(crate) struct Profile {
    pub(crate) instructions: u64,
    pub(crate) allocations: u64,
}

// ===== impl Profile =====

impl Profile {
    /// Reads a dump. Names are spelled out once, `cfn=(7) malloc`, and are `cfn=(7)` from then on.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut allocators = HashSet::new();
        let mut instructions = None;
        let mut allocations = 0;
        let mut callee_allocates = false;
        for line in text.lines() {
            if let Some(total) = line.strip_prefix("summary: ") {
                instructions = total.trim().parse().ok();
            } else if let Some(function) = line.strip_prefix("fn=") {
                note(function, &mut allocators);
            } else if let Some(function) = line.strip_prefix("cfn=") {
                let callee = note(function, &mut allocators);
                callee_allocates = allocators.contains(callee);
            } else if let Some(calls) = line.strip_prefix("calls=")
                && callee_allocates
            {
                let count = calls
                    .split(' ')
                    .next()
                    .and_then(|count| count.parse::<u64>().ok());
                allocations += count.ok_or_else(|| format!("not a call count: {line}"))?;
            }
        }
        let instructions = instructions.ok_or("a dump without its summary line")?;
        Ok(Self {
            instructions,
            allocations,
        })
    }
}

/// Remembers the function's number if it allocates; gives the number.
fn note<'a>(function: &'a str, allocators: &mut HashSet<&'a str>) -> &'a str {
    let (number, name) = function.split_once(' ').unwrap_or((function, ""));
    if ALLOCATORS.contains(&name) {
        allocators.insert(number);
    }
    number
}
