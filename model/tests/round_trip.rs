//! Settings of every kind, alone and in some pairs: a model that runs is refused on its way to the other form, or gives the
//! same bits there and, where it comes back, here again.

mod support;

use std::path::{Path, PathBuf};

use serde_json::{Value as Json, json};
use support::edit::Edit;
use support::{FIXTURES, FOLDERS, File, assert_bits, expected, load};
use tritlab_kernels::Packing;
use tritlab_model::Error;
use tritlab_model::convert::convert;
use tritlab_model::gguf::{Array, Value};

/// More than the shortest window below, and than the shortest context of longrope.
const TOKENS: usize = 24;

/// Each setting is tried alone and beside every seventh of those after it: all pairs passed once, and take minutes. Kernels
/// have no part in what is read and written, so runs for one backend, and those of another architecture, which may be
/// emulated, try fewer beside each other.
fn pairs() -> usize {
    let again = std::env::var_os("TRITLAB_BACKEND").is_some() || !cfg!(target_arch = "x86_64");
    if again { 101 } else { 7 }
}

/// Where the files of one case lie.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Place {
        Place(tempfile::tempdir().unwrap())
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

fn logits(fixture: &str, path: &Path) -> Result<Vec<f32>, Error> {
    let ids = expected(fixture).ids;
    load(path)?.logits(&ids[..TOKENS.min(ids.len())])
}

/// Converts from place to place as long as nothing refuses; returns how many times.
fn travel(what: &str, fixture: &str, stops: &[PathBuf]) -> usize {
    let Ok(own) = logits(fixture, &stops[0]) else { return 0 };
    for (i, pair) in stops.windows(2).enumerate() {
        let convert = convert(&pair[0], &pair[1], Packing::I2_S, true, &mut |_, _, _| true);
        match convert {
            Ok(_) => assert_bits(what, &logits(fixture, &pair[1]).unwrap(), &own),
            Err(e) => {
                assert!(matches!(e, Error::InFile { .. }), "{what}: no file is named: {e}");
                return i;
            }
        }
    }
    stops.len() - 1
}

/// Settings of a folder.
fn settings() -> Vec<(&'static str, Json)> {
    let halves = |x: f64, n: usize| Json::from(vec![x; n]);
    let long = |n| {
        json!({"rope_type": "longrope", "short_factor": halves(1.5, n), "long_factor": halves(3.0, n),
               "original_max_position_embeddings": 16})
    };
    let llama3 = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                        "original_max_position_embeddings": 256});
    let other = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 2.0, "high_freq_factor": 4.0,
                       "original_max_position_embeddings": 256});
    let linear = json!({"rope_type": "linear", "factor": 4.0});
    let per_layer =
        |global: &Json, local: &Json| json!({"full_attention": global, "sliding_attention": local});
    let theta = json!({"rope_theta": 77.0});
    vec![
        ("hidden_act", json!("relu2")),
        ("hidden_act", json!("silu")),
        ("hidden_act", json!("gelu_pytorch_tanh")),
        ("hidden_activation", json!("relu2")),
        ("rms_norm_eps", json!(0.1)),
        ("rope_theta", json!(50.0)),
        ("rope_local_base_freq", json!(50.0)),
        ("partial_rotary_factor", json!(0.5)),
        ("rope_scaling", Json::Null),
        ("rope_scaling", linear.clone()),
        ("rope_scaling", llama3.clone()),
        ("rope_scaling", other),
        ("rope_scaling", long(16)),
        ("rope_scaling", long(32)),
        ("rope_parameters", theta.clone()),
        ("rope_parameters", llama3.clone()),
        ("rope_parameters", per_layer(&llama3, &theta)),
        ("rope_parameters", per_layer(&theta, &linear)),
        ("sliding_window", json!(3)),
        ("use_sliding_window", json!(true)),
        ("max_window_layers", json!(1)),
        ("sliding_window_pattern", json!(2)),
        ("query_pre_attn_scalar", json!(7)),
        ("final_logit_softcapping", json!(0.5)),
        ("attn_logit_softcapping", json!(0.5)),
        ("max_position_embeddings", json!(32)),
        ("quantization_config", json!({"quant_method": "bitnet", "quantization_mode": "online"})),
        ("architectures", json!(["BitnetForCausalLM"])),
    ]
}

#[test]
fn folders_there_and_back() {
    let all = settings();
    let (mut runs, mut back) = (0, 0);
    for fixture in FOLDERS {
        for (i, (key, value)) in all.iter().enumerate() {
            for (other, also) in all[i..].iter().step_by(pairs()) {
                let edit =
                    Edit::of(fixture).set(key, value.clone()).set(other, also.clone()).write();
                let place = Place::new();
                let what = format!("{fixture}: {key} = {value}, {other} = {also}");
                let stops = [edit.path().to_owned(), place.at("a.gguf"), place.at("back")];
                let n = travel(&what, fixture, &stops);
                runs += 1;
                back += usize::from(n > 1);
            }
        }
    }
    assert!(back * 4 > runs && back < runs, "{back} of {runs} came back");
}

/// Keys of a file, after its architecture.
fn keys(layers: usize) -> Vec<(&'static str, Value<'static>)> {
    let pattern: Vec<i32> = (0..layers as i32).map(|i| i % 2).collect();
    vec![
        ("hidden_activation", Value::from("relu2")),
        ("hidden_activation", Value::from("silu")),
        ("attention.layer_norm_rms_epsilon", Value::F32(0.1)),
        ("rope.freq_base", Value::F32(50.0)),
        ("rope.freq_base_swa", Value::F32(50.0)),
        ("rope.local_freq_base", Value::F32(50.0)),
        ("rope.dimension_count", Value::U32(16)),
        ("rope.scaling.type", Value::from("linear")),
        ("rope.scaling.type", Value::from("none")),
        ("rope.scaling.factor", Value::F32(4.0)),
        ("rope.scale_linear", Value::F32(4.0)),
        ("rope.scaling.attn_factor", Value::F32(1.5)),
        ("rope.scaling.original_context_length", Value::U32(16)),
        ("context_length", Value::U32(32)),
        ("attention.sliding_window", Value::U32(3)),
        ("attention.sliding_window_pattern", Value::U32(2)),
        ("attention.sliding_window_pattern", Array::from_i32(&pattern).into()),
        ("attn_logit_softcapping", Value::F32(0.5)),
        ("final_logit_softcapping", Value::F32(0.5)),
    ]
}

#[test]
fn files_there_and_back() {
    let (mut runs, mut back) = (0, 0);
    for fixture in FIXTURES {
        let whole = File::of(fixture);
        let arch = whole.keys.iter().find(|(key, _)| key == "general.architecture");
        let Some((_, Value::String(arch))) = arch else { panic!("no architecture") };
        let layers = whole.tensors.iter().filter(|t| t.name.ends_with(".attn_norm.weight")).count();
        let all = keys(layers);
        for (i, (key, value)) in all.iter().enumerate() {
            for (other, also) in all[i..].iter().step_by(pairs()) {
                let place = Place::new();
                let file = whole.clone().set(&format!("{arch}.{key}"), value.clone());
                file.set(&format!("{arch}.{other}"), also.clone()).write(&place.at("in.gguf"));
                let what = format!("{fixture}: {key} = {value}, {other} = {also}");
                let stops = [place.at("in.gguf"), place.at("folder"), place.at("back.gguf")];
                let n = travel(&what, fixture, &stops);
                runs += 1;
                back += usize::from(n > 1);
            }
        }
    }
    assert!(back * 4 > runs && back < runs, "{back} of {runs} came back");
}
