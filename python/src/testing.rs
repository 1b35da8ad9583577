//! `tritlab.testing`: the cases of the kernels' own kit as NumPy arrays.

use numpy::{Element, PyArray1, PyArray2};
use pyo3::prelude::*;
use tritlab_kernels::testing::{self, Case, Check, shapes};
use tritlab_kernels::{Acts, Backend, Format, Grouping, Matrix, Weights, oracle};

use crate::arguments;
use crate::arrays::{self, Borrowed};
use crate::errors::{OrRaise, TritlabError};

type Array<'py, T> = Option<Bound<'py, PyArray2<T>>>;

#[derive(IntoPyObject, Default)]
pub(crate) struct KitCase<'py> {
    case: String,
    rows: usize,
    cols: usize,
    n: usize,
    weights_are: String,
    numbers_are: &'static str,
    blocks: Array<'py, u8>,
    scales: Option<Bound<'py, PyArray1<f32>>>,
    numbers: Array<'py, f32>,
    codes: Array<'py, i8>,
    code_scales: Array<'py, f32>,
    y: Array<'py, f32>,
    sums: Array<'py, f64>,
    bounds: Array<'py, f64>,
    masses: Array<'py, f64>,
}

fn check_of(check: &str, subject: &str) -> PyResult<Check> {
    let format = || Format::from_name(subject).or_raise();
    match check {
        "gemv" => format().map(Check::Gemv),
        "gemm" => format().map(Check::Gemm),
        "dequantize" => format().map(Check::Decode),
        "quantize" => format().map(Check::Encode),
        "quantize_activations" => {
            let named = |g: &Grouping| *g != Grouping::Dense && g.name() == subject;
            let grouping = Grouping::ALL.into_iter().find(named).ok_or_else(|| {
                TritlabError::new_err(format!(
                    "unknown grouping {subject:?}; the known ones are token, 256, 128, 64, 32"
                ))
            });
            grouping.map(Check::QuantizeRow)
        }
        _ => Err(TritlabError::new_err(format!("unknown check {check:?}"))),
    }
}

/// The case of a name, if the check has such cases.
fn case_of(check: Check, name: &str) -> PyResult<Case> {
    let case: Case = name.parse().map_err(TritlabError::new_err)?;
    match check.refuses(&case) {
        None => Ok(case),
        Some(why) => {
            Err(TritlabError::new_err(format!("the case {name} does not fit {check}: {why}")))
        }
    }
}

/// Names of the kit's cases for a check, then of `random` ones drawn from `seed`.
///
/// `check` is "gemv", "gemm", "dequantize" or "quantize" with a format as subject, or
/// "quantize_activations" with a grouping: "token", "256", "128", "64" or "32".
#[pyfunction]
pub(crate) fn kit_cases(
    py: Python<'_>,
    check: &str,
    subject: &str,
    #[pyo3(from_py_with = arguments::random)] random: u32,
    #[pyo3(from_py_with = arguments::seed)] seed: u64,
) -> PyResult<Vec<String>> {
    let check = check_of(check, subject)?;
    let cases = py.detach(|| [check.cases(), check.random_cases(random, seed)].concat());
    Ok(cases.iter().map(Case::to_string).collect())
}

/// Names of smaller cases to try when one fails, the smallest first.
#[pyfunction]
pub(crate) fn kit_simpler(check: &str, subject: &str, case: &str) -> PyResult<Vec<String>> {
    let check = check_of(check, subject)?;
    Ok(check.simpler(&case_of(check, case)?).iter().map(Case::to_string).collect())
}

/// The arrays of a case: what a kernel gets, and what it must give.
///
/// `judge` says which answers a product gets: "bits" those of the oracle, "int8" or "f32" the sums
/// in float64 with quantised or with plain activations.
#[pyfunction]
pub(crate) fn kit_case<'py>(
    py: Python<'py>,
    check: &str,
    subject: &str,
    case: &str,
    judge: &str,
) -> PyResult<KitCase<'py>> {
    let check = check_of(check, subject)?;
    let case = case_of(check, case)?;
    let Case { bytes, values, rows, cols, n, .. } = case;
    let mut out = KitCase {
        case: case.to_string(),
        rows,
        cols,
        n,
        weights_are: bytes.map(|bytes| bytes.describe()).unwrap_or_default(),
        numbers_are: values.map(|values| values.describe()).unwrap_or_default(),
        ..KitCase::default()
    };
    match check {
        Check::Gemv(format) | Check::Gemm(format) => {
            let w = case.matrix(format).or_raise()?;
            let x = case.activations().or_raise()?;
            let acts = quantized(format.info().activation, &x, n, cols)?;
            match judge {
                "bits" => {
                    let mut y = vec![0.0; n * rows];
                    py.detach(|| oracle::matmul(&w, &acts, &mut y));
                    out.y = array(py, y, n, rows)?;
                }
                "int8" => out.sums(py, &w, &acts)?,
                _ => out.sums(py, &w, &quantized(Grouping::Dense, &x, n, cols)?)?,
            }
            if format.codes().is_some() {
                out.acts(py, &acts, acts.groups())?;
            }
            out.matrix(py, &w)?;
            out.numbers = array(py, x, n, cols)?;
        }
        Check::Decode(format) => {
            let w = case.matrix(format).or_raise()?;
            out.matrix(py, &w)?;
            out.numbers = array(py, py.detach(|| w.dequantize()), rows, cols)?;
        }
        Check::Encode(format) => {
            let x = case.weights().or_raise()?;
            let w = py.detach(|| Matrix::quantize(format, rows, cols, &x)).or_raise()?;
            out.matrix(py, &w)?;
            out.numbers = array(py, x, rows, cols)?;
        }
        Check::QuantizeRow(grouping) => {
            let x = case.weights().or_raise()?;
            let acts = quantized(grouping, &x, 1, cols)?;
            // What has no elements has no group, though `Acts` keeps a scale for every token.
            out.acts(py, &acts, if cols == 0 { 0 } else { acts.groups() })?;
            out.numbers = array(py, x, 1, cols)?;
        }
    }
    Ok(out)
}

/// Activations by the definition, whatever the current backend is.
fn quantized(grouping: Grouping, x: &[f32], n: usize, cols: usize) -> PyResult<Acts> {
    let oracle = Backend::Oracle.ops().or_raise()?;
    oracle.quantize_acts(grouping, x, n, cols).or_raise()
}

fn array<T: Element>(
    py: Python<'_>,
    x: Vec<T>,
    rows: usize,
    cols: usize,
) -> PyResult<Array<'_, T>> {
    arrays::matrix(py, x, rows, cols).map(Some)
}

impl<'py> KitCase<'py> {
    fn matrix(&mut self, py: Python<'py>, w: &Matrix<'_>) -> PyResult<()> {
        let row_bytes = w.format().row_bytes(w.cols()).or_raise()?;
        self.blocks = array(py, w.bytes().to_vec(), w.rows(), row_bytes)?;
        self.scales = Some(arrays::vector(py, w.scales().to_vec()));
        Ok(())
    }

    fn acts(&mut self, py: Python<'py>, acts: &Acts, groups: usize) -> PyResult<()> {
        let (n, cols) = (acts.n(), acts.cols());
        let codes = (0..n).flat_map(|t| acts.codes(t)[..cols].to_vec()).collect();
        let scales = (0..n).flat_map(|t| acts.scales(t)[..groups].to_vec()).collect();
        self.codes = array(py, codes, n, cols)?;
        self.code_scales = array(py, scales, n, groups)?;
        Ok(())
    }

    fn sums(&mut self, py: Python<'py>, w: &Matrix<'_>, acts: &Acts) -> PyResult<()> {
        let answers: Vec<oracle::Answer> = py.detach(|| {
            let place = |i: usize| (i / w.rows(), i % w.rows());
            (0..acts.n() * w.rows())
                .map(place)
                .map(|(t, r)| oracle::matmul_f64(w, acts, t, r))
                .collect()
        });
        let all = |f: fn(&oracle::Answer) -> f64| -> PyResult<Array<'py, f64>> {
            array(py, answers.iter().map(f).collect(), acts.n(), w.rows())
        };
        self.sums = all(|a| a.value)?;
        self.bounds = all(|a| a.bound)?;
        self.masses = all(|a| a.mass)?;
        Ok(())
    }
}

/// Numbers of columns that the kit tries for a format, in ascending order.
#[pyfunction]
pub(crate) fn kit_columns(format: &str) -> PyResult<Vec<usize>> {
    Ok(shapes::columns(Format::from_name(format).or_raise()?).to_vec())
}

/// A copy of raw blocks, uint8 [n], in which scales and dense elements are finite.
#[pyfunction]
pub(crate) fn kit_make_finite<'py>(
    py: Python<'py>,
    format: &str,
    blocks: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyArray1<u8>>> {
    let format = Format::from_name(format).or_raise()?;
    let blocks = Borrowed::<u8>::new(blocks, "blocks, uint8 [n]")?;
    let [_] = blocks.dims()?;
    let mut bytes = blocks.slice()?.to_vec();
    testing::make_finite(format, &mut bytes);
    Ok(arrays::vector(py, bytes))
}
