//! Ternary models in other projects' layouts: the same weights, so the same logits bit for bit.

mod support;

use support::{Draft, File, assert_bits, error, expected, fixture};
use tritlab_kernels::{Error as KernelError, Format, Matrix, Packing, Ternary};
use tritlab_model::gguf::{Gguf, TensorType};
use tritlab_model::quantize::{Recipe, quantize_gguf};
use tritlab_model::source::{i2_s_order, packing_of};
use tritlab_model::{Error, Model, Options, Result};

const BITNET: &str = "bitnet-gguf-tq2_0";

/// The type that stores a packing.
fn type_of(packing: Packing) -> TensorType {
    let i2_s = i2_s_order(packing.name()).unwrap_or_default();
    let holds = |t: &TensorType| packing_of(*t, i2_s) == Some(packing);
    TensorType::ALL.iter().copied().find(holds).unwrap()
}

fn repack(tensor: &mut Draft, packing: Packing) {
    let (rows, cols) = (tensor.dims[1] as usize, tensor.dims[0] as usize);
    let m = Matrix::new(Format::TQ2_0, rows, cols, tensor.data.as_slice(), Vec::new()).unwrap();
    tensor.data = packing.pack(&Ternary::from_weights(&m).unwrap()).unwrap().bytes;
    tensor.ty = type_of(packing);
}

/// The fixture with its ternary tensors in `packing`, and how many they are.
fn repacked(packing: Packing) -> (File, usize) {
    let mut file = File::of(BITNET);
    let mut count = 0;
    for tensor in file.tensors.iter_mut().filter(|t| t.ty == TensorType::TQ2_0) {
        repack(tensor, packing);
        count += 1;
    }
    (file, count)
}

fn load(file: &File, options: Options) -> Result<Model> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    file.write(&path);
    Model::load(&path, options, &mut |_, _, _| true)
}

const IN_GGUF: [Packing; 6] = [
    Packing::I2_S,
    Packing::I2_S_64,
    Packing::I2_S_ROWS4,
    Packing::IQ1_BN,
    Packing::IQ2_BN,
    Packing::IQ2_BN_R4,
];

#[test]
fn every_packing_gives_the_logits_of_tq2_0() {
    let ids = expected(BITNET).ids;
    let logits = fixture(BITNET).logits(&ids).unwrap();
    for packing in IN_GGUF {
        let (file, count) = repacked(packing);
        assert!(count >= 14, "{count} tensors");
        let i2_s = i2_s_order(packing.name()).unwrap_or_default();
        let model = load(&file, Options { i2_s, ..Options::default() }).unwrap();
        assert_bits(packing.name(), &model.logits(&ids).unwrap(), &logits);
        let report = model.tensors.iter().find(|t| t.name == "blk.1.ffn_up.weight").unwrap();
        assert_eq!(report.file_type, type_of(packing).name());
        assert_eq!(report.rel_error, 0.0);
        let format = match packing {
            Packing::IQ1_BN => "TERNARY_B3_ROW",
            Packing::IQ2_BN | Packing::IQ2_BN_R4 => "TERNARY_ROW",
            _ => "TERNARY",
        };
        assert_eq!(report.format, format, "{packing}");
        // Asked for in another ternary format, the weights stay what they are.
        for format in [Format::TERNARY, Format::TERNARY_ROW, Format::TERNARY_B3] {
            let options = Options { i2_s, format: Some(format), ..Options::default() };
            let model = load(&file, options).unwrap();
            assert_bits(&format!("{packing} as {format}"), &model.logits(&ids).unwrap(), &logits);
            assert!(model.tensors.iter().all(|t| t.rel_error == 0.0));
        }
    }
}

/// Nothing in a file tells the order: a wrong one is another model, which is why it must be asked for.
#[test]
fn a_wrong_order_of_i2_s_is_another_model() {
    let ids = expected(BITNET).ids;
    let logits = fixture(BITNET).logits(&ids).unwrap();
    let model = load(&repacked(Packing::I2_S_64).0, Options::default()).unwrap();
    assert_ne!(model.logits(&ids).unwrap(), logits);
    let e = error(i2_s_order("IQ2_BN"));
    let known = "I2_S, I2_S_64, I2_S_ROWS4".to_owned();
    let unknown = KernelError::UnknownPacking { name: "IQ2_BN".to_owned(), known };
    assert!(matches!(&e, Error::Kernel(found) if *found == unknown), "{e}");
}

#[test]
fn codes_that_stand_for_nothing_are_placed() {
    let name = "blk.0.ffn_down.weight";
    let (mut file, _) = repacked(Packing::I2_S);
    // Byte 40 is in the second block of 128; its highest bits are the block's element 8.
    file.tensor(name).data[40] |= 0xc0;
    match error(load(&file, Options::default())) {
        Error::Tensor { tensor, source: KernelError::BadCode { packing, row, col, .. } } => {
            assert_eq!((tensor.as_str(), packing, row, col), (name, "I2_S", 0, 136));
        }
        e => panic!("{e}"),
    }
    let (mut file, _) = repacked(Packing::IQ2_BN);
    file.tensor(name).data[..4].copy_from_slice(&f32::NAN.to_le_bytes());
    match error(load(&file, Options::default())) {
        Error::Tensor { tensor, source: KernelError::NotFinite { .. } } => assert_eq!(tensor, name),
        e => panic!("{e}"),
    }
}

#[test]
fn a_packed_file_is_quantised_exactly() {
    let folder = tempfile::tempdir().unwrap();
    let (from, to) = (folder.path().join("from.gguf"), folder.path().join("to.gguf"));
    repacked(Packing::I2_S_64).0.write(&from);
    let recipe = Recipe { i2_s: Packing::I2_S_64, ..Recipe::new(Format::TQ2_0) };
    quantize_gguf(&from, &to, &recipe, &mut |_, _, _| true).unwrap();
    let ids = expected(BITNET).ids;
    let model = support::load(&to).unwrap();
    assert_bits(
        "TQ2_0 again",
        &model.logits(&ids).unwrap(),
        &fixture(BITNET).logits(&ids).unwrap(),
    );
}

/// 39 is one type in ggml and another in bitnet.cpp: the message says so.
#[test]
fn type_39_is_refused_with_the_reason() {
    let file = File::of(BITNET).change("blk.1.ffn_down.weight", |t| {
        t.ty = TensorType::MXFP4;
        t.data = vec![0; (t.dims[0] / 32 * 17 * t.dims[1]) as usize];
    });
    let text = error(file.load()).to_string();
    assert!(text.contains("MXFP4 in ggml and TL2 in bitnet.cpp"), "{text}");

    // TL2 is smaller than MXFP4: a file whose tensors lie closer together, like this one of I2_S.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    repacked(Packing::I2_S).0.write(&path);
    let mut bytes = std::fs::read(&path).unwrap();
    let name = b"blk.0.attn_q.weight";
    let at = bytes.windows(name.len()).position(|w| w == name).unwrap() + name.len() + 4 + 2 * 8;
    assert_eq!(bytes[at..at + 4], 36u32.to_le_bytes());
    bytes[at..at + 4].copy_from_slice(&39u32.to_le_bytes());
    match Gguf::from_bytes(bytes).map(|_| ()) {
        Err(Error::NotMxfp4 { tensor, reason }) => {
            assert_eq!(tensor.as_bytes(), name);
            assert!(reason.contains("starts at offset"), "{reason}");
        }
        other => panic!("{other:?}"),
    }
}
