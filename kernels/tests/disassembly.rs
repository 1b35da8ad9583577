//! The code of kernels as it runs: every row of the table has some, and what it must contain by arithmetic, it does.
//!
//! Tests are built with debug assertions, so totals are those of another build than a user's; what is asserted here
//! holds in both.

use tritlab_kernels::backend::{self, Kernel};
use tritlab_kernels::disassembly::{COMPILER, Disassembly, Kind};
use tritlab_kernels::{Backend, Error, Format};

fn kernel(name: &str) -> Kernel {
    backend::kernels().into_iter().find(|k| k.name == name).expect("a kernel of the table")
}

/// Its code, where code is shown at all and the CPU has the instructions.
fn code(name: &str) -> Option<Disassembly> {
    let kernel = kernel(name);
    if !here() || !kernel.available {
        assert!(matches!(kernel.disassemble(), Err(Error::Disassembly { .. })), "{name}");
        return None;
    }
    Some(kernel.disassemble().unwrap_or_else(|e| panic!("{e}")))
}

fn here() -> bool {
    cfg!(all(target_arch = "x86_64", target_os = "linux"))
}

/// Executed instructions of the hot loop whose text has `what`.
fn executed(code: &Disassembly, what: &str) -> f64 {
    code.instructions.iter().filter(|i| i.text.contains(what)).map(|i| i.executed).sum()
}

/// Bytes of whole vectors that the hot loop reads, not from the stack, where sums may wait: weights, as activations
/// come as broadcasts of four bytes.
fn vector_bytes(code: &Disassembly, width: usize) -> f64 {
    let whole =
        code.instructions.iter().filter(|i| i.bytes_read == width && !i.text.contains("[rsp"));
    whole.map(|i| i.executed * width as f64).sum()
}

/// Whether the hot loop reads `bytes` of whole vectors. Debug assertions of the standard library make it read a line
/// anew for each use.
fn reads(code: &Disassembly, width: usize, bytes: f64) -> bool {
    let read = vector_bytes(code, width);
    if cfg!(debug_assertions) { read >= bytes - 1e-9 } else { (read - bytes).abs() < 1e-9 }
}

/// Whether a chunk's steps are one loop. In a debug build that depends on how the compiler splits the crate, so what a
/// loop executes is asked of optimised builds only (also by the Python package's tests), what the kernel does of all.
const fn in_one_loop() -> bool {
    !cfg!(debug_assertions)
}

/// What holds for any kernel.
fn check(code: &Disassembly) {
    let name = &code.kernel;
    let c = &code.counts;
    let of_kinds = c.dots + c.shuffles + c.multiplies + c.other;
    assert!(c.total > 0.0 && c.other > 0.0 && c.loads > 0.0, "{name}: {c}");
    assert!(of_kinds <= c.total + 1e-6, "{name}: the kinds are disjoint: {c}");
    assert!(c.total <= of_kinds + c.loads + c.stores + 1e-6, "{name}: nothing is left out: {c}");
    assert!(code.share > 0.0 && code.share <= 1.0 + 1e-9, "{name}: {}", code.share);
    assert!(code.instructions.is_sorted_by_key(|i| i.at), "{name}");
    let branch = code.instructions.last().expect("a loop has instructions");
    assert!(branch.text.starts_with('j') && branch.executed > 0.0, "{name}: {}", branch.text);
    let text = code.to_string();
    assert!(text.contains(name.as_str()) && text.contains(COMPILER), "{text}");
    assert_eq!(text.lines().filter(|l| l.contains("  0x")).count(), code.instructions.len());
}

/// One token of every format, and every operation without weights, on the best vectors that run here: steps take
/// their time, and the next tests have some of the rest.
#[test]
fn every_kernel_has_code() {
    let vectors = [Backend::Avx512, Backend::Avx2, Backend::Portable];
    let best = vectors.into_iter().find(|b| b.available());
    let mut seen = 0;
    for kernel in backend::kernels() {
        if Some(kernel.backend) == best && kernel.op != "gemm" && here() {
            check(&code(&kernel.name).expect("available"));
            seen += 1;
        }
    }
    assert!(!here() || seen >= Format::ALL.len());
}

/// Several tokens: the same code for all formats of a kind, so one of each; not in plain Rust, whose steps are many.
#[test]
fn products_of_several_tokens_have_code() {
    for format in ["ternary", "ternary_b3", "q4_k", "q8_0", "f16"] {
        for backend in ["avx512", "avx2"] {
            let Some(code) = code(&format!("gemm-{format}-{backend}")) else { continue };
            check(&code);
            assert!(code.tokens > 1 && code.per() == "256 weights and token");
        }
    }
}

/// An index of three trits: 96 products for a permutation. Dot products are left for making the indices and adding up.
#[test]
fn ternary_is_looked_up() {
    let Some(code) = code("gemm-ternary-avx512_lut") else { return };
    let permutations: f64 =
        code.instructions.iter().filter(|i| i.text.starts_with("vpermw")).map(|i| i.executed).sum();
    // All three indices of a word, or one of them where the loop was not unrolled; 29 words for 256 columns.
    let one = 29.0 / 32.0;
    let indices = permutations / one;
    assert!((0.99..3.01).contains(&indices) && code.counts.shuffles > 3.0 * one, "{code}");
    assert!(code.counts.dots < 2.0, "four where each product is one: {code}");
}

/// Two bits: a line of 64 bytes is 256 weights, which are four dot products of 64.
#[test]
fn ternary_on_avx512_reads_a_line_and_multiplies_four_times() {
    let Some(code) = code("gemv-ternary-avx512") else { return };
    if in_one_loop() {
        assert_eq!(executed(&code, "vpdpbusd"), 4.0, "{code}");
        assert!(reads(&code, 64, 64.0), "{code}");
    }
    assert_eq!(code.counts.dots, 4.0, "{code}");
    // A debug build broadcasts activations by instructions of their own, which count as shuffles.
    let most = if cfg!(debug_assertions) { 1.0 } else { 0.0 };
    assert!(code.counts.shuffles <= most, "{code}");
}

/// Codes of 4 bits, with 32 columns or a sub-block at a time: two lines and four dot products.
#[test]
fn codes_of_four_bits_are_two_lines() {
    for format in ["q4_0", "q4_k"] {
        let Some(code) = code(&format!("gemv-{format}-avx512")) else { return };
        if in_one_loop() {
            assert_eq!(executed(&code, "vpdpbusd"), 4.0, "{code}");
            assert!(vector_bytes(&code, 64) >= 128.0, "{code}");
        }
        // Of Q4_K also four for its minima: 64 rows x 8 sub-blocks.
        let minima = if format == "q4_k" { 0.25 } else { 0.0 };
        assert_eq!(code.counts.dots, 4.0 + minima, "{code}");
        // Beside codes: scales, 2 bytes per 32 weights, or of Q4_K also a byte twice for a sub-block, and activations.
        assert!(code.counts.bytes_read >= 128.0 + 16.0, "{code}");
    }
}

/// Codes of 8 bits go into the dot product as they are: four lines, four dot products, nothing to unpack.
#[test]
fn codes_of_eight_bits_need_no_unpacking() {
    let Some(code) = code("gemv-q8_0-avx512") else { return };
    assert_eq!(executed(&code, "vpdpbusd"), 4.0, "{code}");
    let anded: f64 = executed(&code, "vpand");
    assert_eq!(anded, 0.0, "{code}");
}

/// 4 + 2 bits: three lines; the planes are put together once per dot product.
#[test]
fn codes_of_six_bits_are_three_lines() {
    let Some(code) = code("gemv-q6_k-avx512") else { return };
    if in_one_loop() {
        assert_eq!(executed(&code, "vpdpbusd"), 4.0, "{code}");
    }
    assert_eq!(code.counts.dots, 4.0, "{code}");
    assert!(code.counts.bytes_read >= 192.0 + 16.0, "{code}");
}

/// Base 3: 64 bytes are 320 weights, each digit two dot products.
#[test]
fn base_3_multiplies_twice_per_digit() {
    let Some(code) = code("gemv-ternary_b3-avx512") else { return };
    let near = |x: f64, y: f64| (x - y).abs() < 1e-9;
    assert!(near(executed(&code, "vpdpbusd"), 8.0), "{code}");
    assert!(reads(&code, 64, 64.0 * 256.0 / 320.0), "{code}");
}

/// Registers of 256 bits take each line in two halves, and pairs in 16 bits.
#[test]
fn avx2_multiplies_pairs() {
    let Some(code) = code("gemv-ternary-avx2") else { return };
    assert_eq!(executed(&code, "vpmaddubsw"), 8.0, "{code}");
    assert!(reads(&code, 32, 64.0), "{code}");
    assert!(code.counts.total > 8.0 + 8.0, "additions too: {code}");
}

/// No integers: a fused multiplication for 16 weights.
#[test]
fn dense_weights_are_fused() {
    let Some(code) = code("gemv-f16-avx512") else { return };
    assert!(executed(&code, "vfmadd") >= 15.9 && code.counts.dots == 0.0, "{code}");
    assert!(code.instructions.iter().any(|i| i.kind == Kind::Multiply));
}

#[test]
fn counting_is_exact() {
    let once = code("gemv-q4_0-portable");
    assert_eq!(once, code("gemv-q4_0-portable"));
}

#[test]
fn html_has_the_same_lines() {
    let Some(code) = code("rms_norm-portable") else { return };
    assert_eq!(code.unit, "numbers");
    let html = code.to_html();
    assert!(html.starts_with("<pre") && html.ends_with("</pre>"));
    for i in &code.instructions {
        assert!(html.contains(&i.text.replace('<', "&lt;").replace('>', "&gt;")), "{}", i.text);
    }
}

#[test]
fn what_cannot_be_shown_says_why() {
    let elsewhere = backend::kernels().into_iter().find(|k| !k.available).unwrap();
    let why = elsewhere.disassemble().unwrap_err().to_string();
    assert!(why.starts_with(&elsewhere.name), "{why}");
    assert!(if here() { why.contains("this CPU lacks") } else { why.contains("disassembly is") });
}
