//! The table: backends x formats x operations, and which backend runs.
//!
//! A backend is one [`Ops`]: a safe function pointer per operation and format, filled from the generic
//! operations by iterating the format list. Tests, benches, documentation and Python iterate
//! [`kernels`], so a new format or backend is tested, timed and documented by existing.
//!
//! To add a backend: write `isa/<name>.rs`, and add one line to [`Backend`]'s list and to `build`.

mod self_check;

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::activation::{self, Acts, QuantizeRow};
use crate::error::{Error, Result};
use crate::format::{CodedFormat, DenseFormat, Format, Grouping, Visit, for_each};
use crate::isa::{Isa, portable::Portable};
#[cfg(target_arch = "x86_64")]
use crate::isa::{Lookup, Unit};
use crate::matrix::Weights;
use crate::op::lookup::Whole;
use crate::op::product::{Product, all_panels, product_oracle};
use crate::op::{KeyValues, Queries, attention, gate, norm, quantize, rope};
use crate::op::{base3::Base3, dense::Dense, integer::Integer};
#[cfg(target_arch = "x86_64")]
use crate::op::{lookup, tiles};
use crate::oracle::{self, Activation};
use crate::panel::{Panels, ROWS};
use crate::roofline::Probe;
use self_check::self_check;

/// Something that can run every operation.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Backend {
    /// AMX for several vectors, AVX-512 with VNNI for the rest.
    Amx,
    /// AVX-512 with VNNI, and ternary and 1-bit products of many vectors by looking sums up.
    Avx512Lut,
    /// AVX-512 with VNNI.
    Avx512,
    /// AVX2 with FMA and F16C.
    Avx2,
    /// NEON with the dot-product extension.
    NeonDotprod,
    /// NEON.
    Neon,
    /// Plain Rust on any CPU.
    Portable,
    /// The definition itself: slow, selectable, never preferred.
    Oracle,
}

impl Backend {
    /// All backends, in the order of the table.
    pub const ALL: [Backend; 8] = [
        Backend::Amx,
        Backend::Avx512Lut,
        Backend::Avx512,
        Backend::Avx2,
        Backend::NeonDotprod,
        Backend::Neon,
        Backend::Portable,
        Backend::Oracle,
    ];

    /// The name used for `TRITLAB_BACKEND`, tests and tables.
    pub const fn name(self) -> &'static str {
        match self {
            Backend::Amx => "amx",
            Backend::Avx512Lut => "avx512_lut",
            Backend::Avx512 => "avx512",
            Backend::Avx2 => "avx2",
            Backend::NeonDotprod => "neon_dotprod",
            Backend::Neon => "neon",
            Backend::Portable => "portable",
            Backend::Oracle => "oracle",
        }
    }

    /// Finds a backend by name.
    ///
    /// # Errors
    /// [`Error::UnknownBackend`], which lists the names.
    pub fn from_name(name: &str) -> Result<Backend> {
        Backend::ALL.into_iter().find(|b| b.name() == name).ok_or_else(|| Error::UnknownBackend {
            name: name.to_owned(),
            known: Backend::ALL.map(Backend::name).join(", "),
        })
    }

    /// Whether this build on this CPU can run it.
    pub fn available(self) -> bool {
        table()[self as usize].is_some()
    }

    /// All backends in order of preference on this CPU. Looking up is slower than multiplying on most.
    pub fn preferred() -> [Backend; Self::ALL.len()] {
        let mut all = Backend::ALL;
        all.sort_by_key(|b| !b.pays());
        all
    }

    fn pays(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Backend::Avx512Lut => crate::isa::zen5::here(),
            Backend::Oracle => false,
            _ => true,
        }
    }

    /// Its operations.
    ///
    /// # Errors
    /// [`Error::BackendUnavailable`].
    pub fn ops(self) -> Result<&'static Ops> {
        table()[self as usize].as_ref().ok_or_else(|| Error::BackendUnavailable {
            name: self.name().to_owned(),
            available: available().into_iter().map(Backend::name).collect::<Vec<_>>().join(", "),
        })
    }
}

impl std::fmt::Display for Backend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// The backends that can run here, best first.
pub fn available() -> Vec<Backend> {
    Backend::preferred().into_iter().filter(|b| b.available()).collect()
}

type Attention = fn(&Queries<'_>, &KeyValues, &mut Vec<f32>, &mut [f32]);

/// The operations of one backend. Fields are function pointers with the meaning of the oracle's
/// function of the same name.
#[derive(Clone)]
pub struct Ops {
    backend: Backend,
    products: Vec<Product>,
    gemms: Vec<Product>,
    wholes: Vec<Option<Whole>>,
    pub(crate) quantize_row: QuantizeRow,
    rms_norm: fn(&[f32], &[f32], f32, &mut [f32]),
    gated: fn(Activation, &mut [f32], &[f32]),
    tanh_cap: fn(&mut [f32], f32),
    softmax: fn(&mut [f32]),
    rope: fn(&mut [f32], &[f32], &[f32]),
    pub(crate) attention: Attention,
    probe: Probe,
}

impl Ops {
    /// The kernel for one vector.
    pub(crate) fn gemv(&self, format: Format) -> Product {
        self.products[format as usize]
    }

    /// The kernel for several vectors.
    pub(crate) fn gemm(&self, format: Format) -> Product {
        self.gemms[format as usize]
    }

    /// The kernel for many vectors that takes a whole matrix, where the backend has one for the format.
    pub(crate) fn whole(&self, format: Format) -> Option<Whole> {
        self.wholes.get(format as usize).copied().flatten()
    }

    /// What measures this backend's limits.
    pub(crate) fn probe(&self) -> Probe {
        self.probe
    }

    /// Which backend these are.
    pub fn backend(&self) -> Backend {
        self.backend
    }

    /// `out = W x` for quantised activations, on this backend and this thread alone: what tests and
    /// benches of a kernel call. `out` is `[n][rows]`.
    ///
    /// # Panics
    /// If shapes or groupings do not fit.
    pub fn matmul(&self, w: &Panels, acts: &Acts, out: &mut [f32]) {
        assert_eq!(out.len(), acts.n() * w.rows(), "outputs");
        assert_eq!(acts.cols(), w.cols(), "columns");
        assert_eq!(acts.grouping(), w.format().info().activation, "grouping");
        if acts.n() > 1
            && let Some(whole) = self.whole(w.format())
            && whole(w, acts, 0, out)
        {
            return;
        }
        self.matmul_panels(w, acts, out);
    }

    /// As [`Ops::matmul`], panel by panel also where the backend takes whole matrices.
    fn matmul_panels(&self, w: &Panels, acts: &Acts, out: &mut [f32]) {
        let kernel = if acts.n() == 1 { self.gemv(w.format()) } else { self.gemm(w.format()) };
        let mut block = vec![0.0; acts.n() * ROWS];
        all_panels(kernel, w, acts, 0, out, &mut block);
    }

    /// Quantised activations, on this backend.
    ///
    /// # Errors
    /// As [`Acts::quantize`].
    pub fn quantize_acts(
        &self,
        grouping: Grouping,
        x: &[f32],
        n: usize,
        cols: usize,
    ) -> Result<Acts> {
        Acts::quantize_with(grouping, x, n, cols, self.quantize_row)
    }

    /// int8 codes, scales and sums of one row; definition: [`oracle::quantize_row`]. `q` may be longer
    /// than `x`: the rest stays as it is. `x` must be finite ([`Acts::quantize`] checks).
    ///
    /// # Panics
    /// If the grouping is [`Grouping::Dense`] or a length does not fit.
    pub fn quantize_row(
        &self,
        grouping: Grouping,
        x: &[f32],
        q: &mut [i8],
        scale: &mut [f32],
        sum: &mut [i32],
    ) {
        assert!(grouping != Grouping::Dense, "quantize_row: dense activations are not quantised");
        let group = grouping.len().unwrap_or(x.len()).max(1);
        let groups = x.len().div_ceil(group);
        assert!(
            q.len() >= x.len() && scale.len() == groups && sum.len() == groups,
            "quantize_row: lengths differ"
        );
        (self.quantize_row)(x, group, activation::floor(grouping), q, scale, sum);
    }

    /// `out = x / sqrt(mean(x^2) + eps) * w` for one row; definition: [`oracle::rms_norm`].
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn rms_norm(&self, x: &[f32], w: &[f32], eps: f32, out: &mut [f32]) {
        assert!(x.len() == w.len() && x.len() == out.len(), "rms_norm: lengths differ");
        (self.rms_norm)(x, w, eps, out);
    }

    /// `gate = act(gate) * up`, element by element; definition: [`oracle::gated`].
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn gated(&self, act: Activation, gate: &mut [f32], up: &[f32]) {
        assert_eq!(gate.len(), up.len(), "gated: lengths differ");
        (self.gated)(act, gate, up);
    }

    /// `x = cap * tanh(x / cap)`; definition: [`oracle::tanh_cap`].
    pub fn tanh_cap(&self, x: &mut [f32], cap: f32) {
        (self.tanh_cap)(x, cap);
    }

    /// Softmax of one row, in place; definition: [`oracle::softmax`].
    pub fn softmax(&self, x: &mut [f32]) {
        (self.softmax)(x);
    }

    /// Rotates element j with element j + d/2, `d = 2 * cos.len()`; definition: [`oracle::rope`].
    ///
    /// # Panics
    /// If `x` is shorter than d, or the tables differ in length.
    pub fn rope(&self, x: &mut [f32], cos: &[f32], sin: &[f32]) {
        assert!(cos.len() == sin.len() && x.len() >= 2 * cos.len(), "rope: lengths differ");
        (self.rope)(x, cos, sin);
    }

    /// Query heads over one key-value head; definition: [`oracle::attention`] of each. `scores` is scratch.
    ///
    /// # Panics
    /// If a query is outside `vectors` or `out`, sees nothing, or positions that are not in the cache.
    pub fn attention(
        &self,
        queries: &Queries<'_>,
        kv: &KeyValues,
        scores: &mut Vec<f32>,
        out: &mut [f32],
    ) {
        let room = queries.vectors.len().min(out.len());
        for q in queries.each {
            let end = q.at.checked_add(kv.dim());
            assert!(end.is_some_and(|end| end <= room), "attention: dimensions differ");
            assert!(kv.holds(&q.range), "attention: positions not in the cache");
        }
        (self.attention)(queries, kv, scores, out);
    }
}

struct Products<I>(Vec<Product>, std::marker::PhantomData<I>);

impl<I: Isa> Visit for Products<I> {
    fn dense<C: DenseFormat>(&mut self) {
        debug_assert_eq!(self.0.len(), C::FORMAT as usize, "kernels are indexed by format");
        self.0.push(Product::of::<I, Dense<C>>());
    }

    fn coded<C: CodedFormat>(&mut self) {
        debug_assert_eq!(self.0.len(), C::FORMAT as usize, "kernels are indexed by format");
        self.0.push(Product::of::<I, Integer<C>>());
    }

    fn base3<C: CodedFormat>(&mut self) {
        debug_assert_eq!(self.0.len(), C::FORMAT as usize, "kernels are indexed by format");
        self.0.push(Product::of::<I, Base3<C>>());
    }
}

fn rows<I: Isa>(backend: Backend) -> Option<Ops> {
    I::new()?;
    let mut products = Products::<I>(Vec::new(), std::marker::PhantomData);
    for_each(&mut products);
    Some(Ops {
        backend,
        gemms: products.0.clone(),
        products: products.0,
        wholes: Vec::new(),
        quantize_row: quantize::quantize_row::<I>,
        rms_norm: norm::rms_norm::<I>,
        gated: gate::gated::<I>,
        tanh_cap: gate::tanh_cap::<I>,
        softmax: norm::softmax::<I>,
        rope: rope::rope::<I>,
        attention: attention::attention::<I>,
        probe: Probe::of::<I>(),
    })
}

/// Products of a matrix unit, where a format has them.
#[cfg(target_arch = "x86_64")]
struct Tiled<'a, U>(&'a mut Vec<Product>, std::marker::PhantomData<U>);

#[cfg(target_arch = "x86_64")]
impl<U: Unit> Visit for Tiled<'_, U> {
    fn dense<C: DenseFormat>(&mut self) {}

    fn coded<C: CodedFormat>(&mut self) {
        let run = tiles::product::<U, C, Integer<C>>;
        self.0[C::FORMAT as usize] = Product { run, once: false, full: 2 * tiles::TOKENS };
    }

    fn base3<C: CodedFormat>(&mut self) {
        let run = tiles::product::<U, C, Base3<C>>;
        self.0[C::FORMAT as usize] = Product { run, once: false, full: 2 * tiles::TOKENS };
    }
}

/// The operations of a unit's vector instructions, with its own products of several vectors.
#[cfg(target_arch = "x86_64")]
fn unit_rows<U: Unit>(backend: Backend) -> Option<Ops> {
    U::new()?;
    let mut ops = rows::<U::Vectors>(backend)?;
    for_each(&mut Tiled::<U>(&mut ops.gemms, std::marker::PhantomData));
    ops.probe = ops.probe.with_unit::<U>();
    Some(ops)
}

/// Products of whole matrices by looking sums up, where a format has them.
#[cfg(target_arch = "x86_64")]
struct LookedUp<L>(Vec<Option<Whole>>, std::marker::PhantomData<L>);

#[cfg(target_arch = "x86_64")]
impl<L: Lookup> LookedUp<L> {
    fn push<C: CodedFormat>(&mut self) {
        debug_assert_eq!(self.0.len(), C::FORMAT as usize, "kernels are indexed by format");
        let has = const { lookup::has(&C::INFO, &C::CODES) };
        self.0.push(has.then_some(lookup::product::<L, C>));
    }
}

#[cfg(target_arch = "x86_64")]
impl<L: Lookup> Visit for LookedUp<L> {
    fn dense<C: DenseFormat>(&mut self) {
        self.0.push(None);
    }

    fn coded<C: CodedFormat>(&mut self) {
        self.push::<C>();
    }

    fn base3<C: CodedFormat>(&mut self) {
        self.push::<C>();
    }
}

/// The operations of a look-up's vector instructions, with its own products of many vectors.
#[cfg(target_arch = "x86_64")]
fn lookup_rows<L: Lookup>(backend: Backend) -> Option<Ops> {
    L::new()?;
    let mut ops = rows::<L::Vectors>(backend)?;
    let mut wholes = LookedUp::<L>(Vec::new(), std::marker::PhantomData);
    for_each(&mut wholes);
    ops.wholes = wholes.0;
    Some(ops)
}

fn oracle_rows() -> Ops {
    Ops {
        backend: Backend::Oracle,
        products: vec![Product { run: product_oracle, once: true, full: 2 }; Format::ALL.len()],
        gemms: vec![Product { run: product_oracle, once: true, full: 2 }; Format::ALL.len()],
        wholes: Vec::new(),
        quantize_row: oracle::quantize_row,
        rms_norm: oracle::rms_norm,
        gated: oracle::gated,
        tanh_cap: oracle::tanh_cap,
        softmax: oracle::softmax,
        rope: oracle::rope,
        attention: attention::attention_oracle,
        probe: Probe::of::<Portable>(),
    }
}

fn build(backend: Backend) -> Option<Ops> {
    match backend {
        #[cfg(target_arch = "x86_64")]
        Backend::Amx => unit_rows::<crate::isa::amx::Amx>(backend),
        #[cfg(target_arch = "x86_64")]
        Backend::Avx512Lut => lookup_rows::<crate::isa::avx512_lut::Avx512Lut>(backend),
        #[cfg(target_arch = "x86_64")]
        Backend::Avx512 => rows::<crate::isa::avx512::Avx512>(backend),
        #[cfg(target_arch = "x86_64")]
        Backend::Avx2 => rows::<crate::isa::avx2::Avx2>(backend),
        #[cfg(target_arch = "aarch64")]
        Backend::NeonDotprod => rows::<crate::isa::neon::NeonDotprod>(backend),
        #[cfg(target_arch = "aarch64")]
        Backend::Neon => rows::<crate::isa::neon::Neon>(backend),
        Backend::Portable => rows::<Portable>(backend),
        Backend::Oracle => Some(oracle_rows()),
        #[allow(unreachable_patterns, reason = "backends of other architectures")]
        _ => None,
    }
}

fn table() -> &'static [Option<Ops>] {
    static TABLE: OnceLock<Vec<Option<Ops>>> = OnceLock::new();
    TABLE.get_or_init(|| Backend::ALL.into_iter().map(build).collect())
}

/// A row of the table, for those who iterate it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// `gemv-q4_0-avx512`, `rms_norm-avx2`, ...
    pub name: String,
    /// The operation.
    pub op: &'static str,
    /// The format, for operations on weights.
    pub format: Option<Format>,
    /// The backend.
    pub backend: Backend,
    /// Whether it can run here.
    pub available: bool,
}

/// Operations on weights.
pub const FORMAT_OPS: [&str; 2] = ["gemv", "gemm"];
/// Operations without weights.
pub const PLAIN_OPS: [&str; 7] =
    ["quantize_row", "rms_norm", "gated", "tanh_cap", "softmax", "rope", "attention"];

/// Every row of the table: also those that need another CPU.
pub fn kernels() -> Vec<Kernel> {
    let mut out = Vec::new();
    for backend in Backend::ALL {
        let available = backend.available();
        for format in Format::ALL.iter().copied() {
            for op in FORMAT_OPS {
                let name = format!("{op}-{}-{backend}", format.name().to_lowercase());
                out.push(Kernel { name, op, format: Some(format), backend, available });
            }
        }
        for op in PLAIN_OPS {
            out.push(Kernel {
                name: format!("{op}-{backend}"),
                op,
                format: None,
                backend,
                available,
            });
        }
    }
    out
}

/// Index of the selected backend plus one; 0 before the first selection.
static SELECTED: AtomicUsize = AtomicUsize::new(0);

/// Selects a backend for the whole process; `None` returns to the automatic choice (the environment
/// variable `TRITLAB_BACKEND` if set, else the best available).
///
/// # Errors
/// An unknown name, a backend that this CPU lacks, a kernel that disagrees with the oracle.
pub fn force(name: Option<&str>) -> Result<()> {
    let backend = match name {
        Some(name) => Backend::from_name(name)?,
        None => automatic()?,
    };
    self_check(backend.ops()?)?;
    SELECTED.store(backend as usize + 1, Ordering::Release);
    Ok(())
}

/// The backend in use; the first call selects it.
///
/// # Errors
/// As [`force`].
pub fn current() -> Result<Backend> {
    ops().map(Ops::backend)
}

fn automatic() -> Result<Backend> {
    match std::env::var("TRITLAB_BACKEND") {
        Ok(name) if !name.is_empty() => Backend::from_name(&name),
        _ => Ok(available()[0]),
    }
}

/// The operations in use.
pub(crate) fn ops() -> Result<&'static Ops> {
    crate::environment::check()?;
    match SELECTED.load(Ordering::Acquire) {
        0 => {
            let backend = automatic()?;
            self_check(backend.ops()?)?;
            // Whoever forced a backend meanwhile keeps it.
            let chosen = backend as usize + 1;
            let _ = SELECTED.compare_exchange(0, chosen, Ordering::AcqRel, Ordering::Acquire);
            ops()
        }
        n => Backend::ALL[n - 1].ops(),
    }
}

/// As [`ops`] for operations that cannot fail. Without a usable backend the oracle answers: the answer is
/// the same, and every product, which a caller also needs, reports the error.
pub(crate) fn active() -> &'static Ops {
    static ORACLE: OnceLock<Ops> = OnceLock::new();
    ops().unwrap_or_else(|_| ORACLE.get_or_init(oracle_rows))
}
