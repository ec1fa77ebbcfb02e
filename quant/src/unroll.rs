//! Loops over constants.

/// Repeats a block for every listed number. Sums stay in registers only if every index is a constant, and whether
/// the compiler unrolls a loop over them depends on its level of optimization.
macro_rules! unroll {
    ($i:ident in [$($n:literal)*] $body:block) => {
        $({
            let $i: usize = $n;
            $body
        })*
    };
}
