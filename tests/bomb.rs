//! A compile bomb: a small, valid module that costs its compiler a minute and gigabytes.

/// Conditions in the one function; cost grows faster than their number.
const CONDITIONS: u32 = 60_000;
/// Locals that each condition reads and writes at other places, so that all of them are alive
/// everywhere and each join of two branches has a value for every one.
const LOCALS: u32 = 400;

/// Gives the bytes of a WASI preview 1 command of about 1.5 MB: no imports, one function
/// `_start` of [`CONDITIONS`] times `if` and `else` over [`LOCALS`] locals.
///
/// Cranelift 48 asks for more than 1.5 GiB after some 7 s of CPU time (one thread: it is one
/// function), so that the memory limit of a compile job must end it.
pub fn compile_bomb() -> Vec<u8> {
    let mut body = Vec::new();
    // One group of LOCALS locals of type i32.
    body.push(1);
    unsigned(&mut body, LOCALS);
    body.push(0x7f);
    let mut random = 1_u32;
    let mut local = |body: &mut Vec<u8>, opcode: u8| {
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        body.push(opcode);
        unsigned(body, (random >> 8) % LOCALS);
    };
    const GET: u8 = 0x20;
    const SET: u8 = 0x21;
    for _ in 0..CONDITIONS {
        // if (get) { set(get + get) } else { set(get ^ get) }
        local(&mut body, GET);
        body.extend([0x04, 0x40]);
        local(&mut body, GET);
        local(&mut body, GET);
        body.push(0x6a);
        local(&mut body, SET);
        body.push(0x05);
        local(&mut body, GET);
        local(&mut body, GET);
        body.push(0x73);
        local(&mut body, SET);
        body.push(0x0b);
    }
    body.push(0x0b);

    let mut module = b"\0asm\x01\0\0\0".to_vec();
    // One type, () -> (); one function of it; exported as _start.
    section(&mut module, 1, &[1, 0x60, 0, 0]);
    section(&mut module, 3, &[1, 0]);
    section(&mut module, 7, &[1, 6, b'_', b's', b't', b'a', b'r', b't', 0, 0]);
    let mut code = vec![1];
    sized(&mut code, &body);
    section(&mut module, 10, &code);
    module
}

fn section(module: &mut Vec<u8>, id: u8, content: &[u8]) {
    module.push(id);
    sized(module, content);
}

fn sized(out: &mut Vec<u8>, content: &[u8]) {
    unsigned(out, u32::try_from(content.len()).expect("a few megabytes"));
    out.extend(content);
}

/// LEB128, the format's way of writing numbers.
fn unsigned(out: &mut Vec<u8>, mut value: u32) {
    loop {
        let low = value.to_le_bytes()[0] & 0x7f;
        value >>= 7;
        if value == 0 {
            out.push(low);
            return;
        }
        out.push(low | 0x80);
    }
}
